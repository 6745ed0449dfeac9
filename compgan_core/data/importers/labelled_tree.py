"""Any tree of pictures: with a table of labels at its top, or in folders `identity/pose/expression/`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import archives
from compgan_core.errors import DataError

TABLES = ("labels.csv", "labels.parquet")
COLUMNS = ("file", "identity", "pose", "expression")
SUFFIXES = {".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".tif", ".tiff", ".webp"}


def read(source: Path) -> Iterator[Face | Skipped]:
    """The faces of a directory or an archive.

    The table, labels.csv or labels.parquet, has the columns file (relative to the table), identity, pose, expression
    and, if known, sequence and frame. Without a table, the three folders above a picture are its labels, and the
    number at the end of its name is its frame.
    """
    table = archives.find(source, TABLES)
    if table is None:
        yield from _by_folder(source)
    else:
        yield from _by_table(source, *table)


def _by_table(source: Path, name: str, content: bytes) -> Iterator[Face | Skipped]:
    root = PurePosixPath(name).parent
    waiting: dict[str, dict[str, str]] = {}
    for row in _rows(source, name, content):
        key = str(PurePosixPath(row["file"]))
        if key in waiting:
            yield Skipped(key, f"{name} lists it twice", broken=True)
        waiting.setdefault(key, row)
    for path, image in archives.files(source):
        key = path if root == PurePosixPath(".") else path.removeprefix(f"{root}/")
        if key in waiting:
            row = waiting.pop(key)
            frame = row.get("frame") or "0"
            if not frame.isdecimal():
                raise DataError(f"{name} in {source} gives {key} the frame {frame!r}: write a whole number, or nothing")
            sequence = row.get("sequence", "")
            yield Face(key, row["identity"], row["pose"], row["expression"], sequence, int(frame), image)
        elif path != name:
            yield Skipped(key, f"not in {name}")
    for key in waiting:
        yield Skipped(key, f"{name} lists it, but it is not there", broken=True)


def _rows(source: Path, name: str, content: bytes) -> list[dict[str, str]]:
    """The table as text; empty where it has nothing."""
    try:
        if name.endswith(".csv"):
            as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys((*COLUMNS, "sequence", "frame"), pa.string()))
            table = pa.csv.read_csv(io.BytesIO(content), convert_options=as_text)
        else:
            table = pq.read_table(io.BytesIO(content))
    except pa.ArrowInvalid as error:
        raise DataError(f"{name} in {source} cannot be read ({error}): write it as plain CSV or Parquet") from None
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise DataError(
            f"{name} in {source} has no column {missing[0]}, only {', '.join(table.column_names)}: "
            f"it needs {', '.join(COLUMNS)}, and may have sequence and frame"
        )
    return [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]


def _by_folder(source: Path) -> Iterator[Face | Skipped]:
    for key, image in archives.files(source):
        path = PurePosixPath(key)
        if path.suffix.lower() not in SUFFIXES:
            yield Skipped(key, "not an image")
        elif len(path.parts) < 4:
            yield Skipped(key, "not in folders identity/pose/expression")
        else:
            number = re.search(r"(\d{1,9})$", path.stem)
            identity, pose, expression = path.parts[-4:-1]
            yield Face(key, identity, pose, expression, "", int(number[1]) if number else 0, image)
