"""Any tree of pictures: with a table of labels, or in folders `identity/pose/expression/`.

Terms: those of the pictures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from compgan_core.data.face import Face, Partition, Skipped
from compgan_core.data.importers.archives import TABLE_BYTES, Source
from compgan_core.data.importers.names import PICTURES, printable, stray, suffix
from compgan_core.errors import DataError

_REQUIRED = ("file", "identity", "pose", "expression")
_OPTIONAL = ("sequence", "frame", "partition")
_DEFAULTS = {name: name for name in (*_REQUIRED, *_OPTIONAL)}
_PARTITIONS: dict[str, Partition] = {
    "": "",
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
_FRAME = re.compile(r"(\d{1,9})(\.0*)?", re.ASCII)  # pandas writes whole numbers as 3.0 if one of them is missing


def read(
    source: Source,
    table: str = "",
    file: str = "file",
    identity: str = "identity",
    pose: str = "pose",
    expression: str = "expression",
    sequence: str = "sequence",
    frame: str = "frame",
    partition: str = "partition",
) -> Iterator[Face | Skipped]:
    """The faces of a tree.

    table: the base name of a CSV or Parquet file; by default labels.csv or labels.parquet, if there is one. Without a
        table, the three folders above a picture are its labels, and the number at the end of its name is its frame.
    file: the column with the path of each picture, relative to the table.
    identity, pose, expression: the columns with these labels; "" if there is none.
    sequence, frame, partition: the same, and not missed if they are not there. A partition is train, validation (or
        val), test, or empty.
    """
    columns = dict(zip(_DEFAULTS, (file, identity, pose, expression, sequence, frame, partition), strict=True))
    found = source.find(table) if table else source.find("labels.csv", "labels.parquet")
    if found:
        return _by_table(source, *found, columns)
    if table or columns != _DEFAULTS:
        raise DataError(
            f"{source.name} holds no {table or 'labels.csv or labels.parquet'}: name the table of the labels"
        )
    return _by_folder(source)


def _by_table(source: Source, name: str, content: bytes, columns: Mapping[str, str]) -> Iterator[Face | Skipped]:
    root = PurePosixPath(name).parent
    labels = _read_table(name, content, columns, source.name)
    waiting: dict[str, int] = {}
    for row, path in enumerate(labels["file"].to_pylist()):
        key = str(PurePosixPath(path.replace("\\", "/")))
        if waiting.setdefault(key, row) != row:
            yield Skipped(key, f"{name} lists it twice", broken=True)
    for path, image in source.files():
        key = path if root == PurePosixPath(".") else path.removeprefix(f"{root}/")
        if key in waiting:
            row = waiting.pop(key)
            yield _face(key, image, {column: labels[column][row].as_py() for column in labels.column_names})
        elif path != name:
            yield Skipped(key, f"not in {name}")
    for key in waiting:
        yield Skipped(key, f"{name} lists it, but it is not there", broken=True)


def _face(key: str, image: bytes, row: dict[str, str]) -> Face | Skipped:
    frame = _FRAME.fullmatch(row["frame"] or "0")
    if frame is None:
        return Skipped(key, f"its frame is {row['frame'][:20]!r}, not a whole number of up to nine digits", broken=True)
    partition = _PARTITIONS.get(row["partition"].lower())
    if partition is None:
        return Skipped(key, f"its partition is {row['partition'][:20]!r}, not train, validation or test", broken=True)
    labels = row["identity"], row["pose"], row["expression"], row["sequence"]
    return Face(key, *labels, int(frame[1]), image, partition)


def _read_table(name: str, content: bytes, columns: Mapping[str, str], source: str) -> pa.Table:
    """Our columns, as text; empty where the table has nothing."""
    try:
        given = _read_csv(content, columns) if suffix(name) == ".csv" else _read_parquet(content)
        given.validate(full=True)  # Parquet's readers do not look whether text is text
        names = given.column_names
        found = {ours: _text(given[theirs]) for ours, theirs in columns.items() if theirs in names}
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        problem = printable(str(error).partition("\n")[0])
        raise DataError(f"{name} in {source} cannot be read ({problem}): write it as plain CSV or Parquet") from None
    for ours, theirs in columns.items():
        if ours not in found and theirs and (ours in _REQUIRED or theirs != ours):
            raise DataError(
                f"{name} in {source} has no column {theirs}, only {printable(', '.join(names))}: "
                f"give the option {ours} its name, or leave that empty if there is none"
            )
    empty = pa.array([""] * len(given), pa.string())
    return pa.table({ours: found.get(ours, empty) for ours in columns}).combine_chunks()


def _read_csv(content: bytes, columns: Mapping[str, str]) -> pa.Table:
    as_text = dict.fromkeys(columns.values(), pa.string())
    return pa.csv.read_csv(io.BytesIO(content), convert_options=pa.csv.ConvertOptions(column_types=as_text))


def _read_parquet(content: bytes) -> pa.Table:
    file = pq.ParquetFile(io.BytesIO(content))
    batches, size = [], 0
    for batch in file.iter_batches(1024):
        size += batch.nbytes
        if size > TABLE_BYTES:
            raise ValueError(f"it unpacks to more than {TABLE_BYTES >> 20} MiB")
        batches.append(batch)
    return pa.Table.from_batches(batches, file.schema_arrow)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return pc.fill_null(column.cast(pa.string()), "")


def _by_folder(source: Source) -> Iterator[Face | Skipped]:
    for key, image in source.files():
        path = PurePosixPath(key)
        if suffix(key) not in PICTURES or len(path.parts) < 4:
            yield stray(key, "in folders identity/pose/expression")
        else:
            number = re.search(r"(\d{1,9})$", path.stem, re.ASCII)
            identity, pose, expression = path.parts[-4:-1]
            yield Face(key, identity, pose, expression, "", int(number[1]) if number else 0, image)
