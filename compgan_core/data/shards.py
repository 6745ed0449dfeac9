"""A data set at rest: Parquet shards of encoded pictures and labels, a table of the labels, and a manifest.

What a source gives is cut into chunks (`in_chunks`); each becomes a shard and a ledger of all that was read
(`write_shard`), on any machine and in any order; the ledgers together make the manifest and the labels (`assemble`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError, model_validator

from compgan_core.data.face import Face, Skipped
from compgan_core.data.files import sha256, write_last
from compgan_core.data.labels import COLUMNS, Labels
from compgan_core.errors import DataError

ROWS_PER_CHUNK = 4096
BYTES_PER_CHUNK = 64 << 20
MAX_PIXELS = 64 << 20
PICTURES = ("JPEG", "PNG", "TIFF", "PPM", "BMP", "GIF", "WEBP")  # Pillow would start other programs for some others

VERDICT = ("reason", "broken", "known")
LABEL_FIELDS = [pa.field(name, pa.int32() if name == "frame" else pa.string()) for name in COLUMNS]
READ = pa.schema(
    [
        *LABEL_FIELDS,
        pa.field("attributes", pa.list_(pa.string())),
        pa.field("image_bytes", pa.large_binary()),
        pa.field("sha256", pa.string()),
        pa.field("reason", pa.string()),  # why a file gave no face; empty if it gave one
        pa.field("broken", pa.bool_()),  # it should have given one
        pa.field("known", pa.bool_()),  # and its authors say so
    ]
)
"""A chunk: a row for each file that was read."""
SHARD = pa.schema([field for field in READ if field.name not in VERDICT])
LEDGER = pa.schema([*LABEL_FIELDS, READ.field("sha256"), *(READ.field(name) for name in VERDICT)])
LABELS = pa.schema([*LABEL_FIELDS, READ.field("sha256"), pa.field("shard", pa.int32()), pa.field("row", pa.int32())])
"""The labels of a data set: a row for each kept face, in the order of the keys, and where its picture is."""


class Quarantined(BaseModel, frozen=True, extra="forbid"):
    """A broken source file that was left out, and why."""

    key: str
    reason: str
    known: bool = False
    """Its authors say so."""


class Duplicate(BaseModel, frozen=True, extra="forbid"):
    """A face left out because its file has the same bytes as another one, which was kept."""

    key: str
    copy_of: str


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """What a data set holds. Its presence means that all its files are complete."""

    name: str
    format: str
    read: int
    """Faces met in the source = kept + quarantined + duplicates."""
    kept: int
    quarantined: tuple[Quarantined, ...]
    duplicates: tuple[Duplicate, ...]
    excluded: dict[str, int]
    """Files that the importer's rules leave out, by reason; not among those read."""
    identities: tuple[str, ...]
    poses: tuple[str, ...]
    expressions: tuple[str, ...]
    digest: str
    """sha256 over the sorted keys, labels and picture hashes: the same however the faces are sharded or ordered."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.read != self.kept + len(self.quarantined) + len(self.duplicates):
            raise ValueError(f"read {self.read} is not kept {self.kept} + quarantined + duplicates")
        return self


def in_chunks(
    faces: Iterable[Face | Skipped], *, rows: int = ROWS_PER_CHUNK, size_bytes: int = BYTES_PER_CHUNK
) -> Iterator[pa.Table]:
    """What a source gives as tables of the schema `READ`, none much larger than `rows` rows and `size_bytes` bytes."""
    chunk: list[dict] = []
    held = 0
    for item in faces:
        chunk.append(_read_face(item) if isinstance(item, Face) else _read_skipped(item))
        held += len(chunk[-1]["image_bytes"] or b"")
        if len(chunk) == rows or held >= size_bytes:
            yield pa.Table.from_pylist(chunk, READ)
            chunk, held = [], 0
    if chunk:
        yield pa.Table.from_pylist(chunk, READ)


def chunk_digest(read: pa.Table) -> str:
    """sha256 over everything that decides the shard and the ledger of a chunk."""
    return _digest(read.drop_columns("image_bytes"))


def write_shard(read: pa.Table, path: Path, each: Callable = map) -> pa.Table:
    """Decode every picture of a chunk to prove it sound, write the sound ones as Parquet, and give the ledger.

    each: as `map`, which may use several threads.
    """
    defects = each(lambda row: row["reason"] or image_defect(row["image_bytes"]), read.to_pylist())
    reasons = pa.array(defects, pa.string())
    found = pc.or_(read["broken"], pc.and_(pc.not_equal(reasons, ""), pc.equal(read["reason"], "")))
    for name, column in (("reason", reasons), ("broken", found)):
        read = read.set_column(READ.get_field_index(name), name, column)
    sound = read.filter(pc.equal(read["reason"], "")).select(SHARD.names)
    # Pictures are compressed already, and their hashes cannot be.
    packed = [name for name in SHARD.names if name not in ("image_bytes", "sha256")]
    pq.write_table(sound, path, compression="zstd", row_group_size=256, use_dictionary=packed)
    return read.select(LEDGER.names)


def read_shard(path: Path, rows: ArrayLike | None = None) -> Iterator[Face]:
    """The faces in these rows of a shard, ascending; all by default. Holds one row group at a time.

    Raises DataError if it is damaged.
    """
    wanted = None if rows is None else np.asarray(rows)
    names = [name for name in SHARD.names if name != "sha256"]
    start = 0
    with _reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256, columns=names):
            here = _checked(pa.Table.from_batches([batch]), [SHARD.field(name) for name in names])
            if wanted is not None:
                here = here.take(pa.array(wanted[(wanted >= start) & (wanted < start + len(batch))] - start))
            start += len(batch)
            yield from (Face(**(row | {"attributes": tuple(row["attributes"])})) for row in here.to_pylist())


def assemble(ledgers: Iterable[pa.Table], *, name: str, source_format: str = "") -> tuple[Manifest, pa.Table]:
    """The manifest and the labels (schema `LABELS`) that the ledgers of all chunks, in their order, amount to.

    Of faces with one picture, the one with the least key is kept; of files with one key, the first. A DataError if no
    face was found.
    """
    tables = [_placed(ledger, shard) for shard, ledger in enumerate(ledgers)]
    table = pa.concat_tables(tables) if tables else pa.table({})
    sound = table.filter(pc.equal(table["reason"], "")) if tables else table
    if not len(sound):
        reasons = pc.value_counts(table["reason"]).to_pylist() if tables else []
        left_out = ", ".join(f"{r['counts']} {r['values']}" for r in reasons) or "no files"
        raise DataError(
            f"no face was found in {name!r} as {source_format} ({left_out}): check the source and the format"
        )
    first = _first_of_each(sound, "key")
    twice = np.setdiff1d(np.arange(len(sound)), first)
    by_key = sound.take(first).sort_by("key")
    kept = _first_of_each(by_key, "sha256")
    keys, hashes = by_key["key"].to_pylist(), by_key["sha256"].to_pylist()
    owner = {hashes[row]: keys[row] for row in kept}
    copies = np.setdiff1d(np.arange(len(by_key)), kept)
    labels = by_key.take(kept).select(LABELS.names)
    broken = table.filter(table["broken"])
    quarantined = [Quarantined(**row) for row in broken.select(["key", "reason", "known"]).to_pylist()]
    again = sound.take(twice)["key"].to_pylist()
    quarantined += [Quarantined(key=key, reason="the source lists it twice") for key in again]
    rule = table.filter(pc.and_(pc.not_equal(table["reason"], ""), pc.invert(table["broken"])))
    manifest = Manifest(
        name=name,
        format=source_format,
        read=len(sound) + len(broken),
        kept=len(labels),
        quarantined=tuple(quarantined),
        duplicates=tuple(Duplicate(key=keys[row], copy_of=owner[hashes[row]]) for row in copies),
        excluded={r["values"]: r["counts"] for r in sorted(_counted(rule["reason"]), key=lambda r: r["values"])},
        identities=_vocabulary(labels["identity"]),
        poses=_vocabulary(labels["pose"]),
        expressions=_vocabulary(labels["expression"]),
        digest=labels_digest(labels),
    )
    return manifest, labels


def labels_digest(labels: pa.Table) -> str:
    """The digest of a data set, from its labels in the order of the keys."""
    return _digest(labels.select([*COLUMNS, "sha256"]))


def write_head(directory: Path, manifest: Manifest, labels: pa.Table) -> None:
    """Write labels.parquet and, last, manifest.json."""
    pq.write_table(labels, directory / "labels.parquet", compression="zstd")
    write_last(directory / "manifest.json", manifest.model_dump_json(indent=1))


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a finished data set."""
    path = directory / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{directory} holds no finished data set (there is no manifest.json): import it again"
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise DataError(f"{path} is not a manifest of this version ({problem}): import the data again") from None


def read_label_table(directory: Path) -> pa.Table:
    """The labels of a finished data set, schema `LABELS`, in the order of the keys."""
    manifest, path = read_manifest(directory), directory / "labels.parquet"
    with _reading(path):
        table = _checked(pq.read_table(path), [*LABELS])
    if len(table) != manifest.kept:
        raise DataError(
            f"{path} has {len(table)} rows, but the manifest says {manifest.kept}: fetch or import it again"
        )
    return table


def read_labels(directory: Path) -> Labels:
    """The labels of a data set, in the order of the keys."""
    return labels_of(read_label_table(directory))


def labels_of(table: pa.Table) -> Labels:
    """The label columns of a table, row by row."""
    return Labels.from_names(**table.select(list(COLUMNS)).to_pydict())


def image_defect(image: bytes) -> str:
    """Why a picture cannot be used; empty if it can."""
    if not image:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(image), formats=PICTURES) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return f"the picture has {opened.width} x {opened.height} pixels, more than {MAX_PIXELS}"
            opened.load()
    except UnidentifiedImageError:
        return "the file is not an image"
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"the file is damaged ({_first_line(error)})"
    return ""


def _read_face(face: Face) -> dict:
    more = {"attributes": list(face.attributes), "sha256": sha256(face.image_bytes)}
    return vars(face) | more | {"reason": "", "broken": False, "known": False}


def _read_skipped(skipped: Skipped) -> dict:
    labels: dict = {name: 0 if name == "frame" else "" for name in COLUMNS}
    unread = {"attributes": [], "image_bytes": b"", "sha256": ""}
    return labels | unread | vars(skipped)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever Arrow raises on a damaged file as a DataError."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, LookupError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} cannot be read ({_first_line(error)}): fetch or import it again") from None


def _checked(table: pa.Table, fields: list[pa.Field]) -> pa.Table:
    """The table with just these columns, all text valid and no value missing."""
    table = table.select([field.name for field in fields]).cast(pa.schema(fields))
    table.validate(full=True)
    for name in table.column_names:
        if table[name].null_count:
            raise ValueError(f"a {name} is missing")
    return table


def _placed(ledger: pa.Table, shard: int) -> pa.Table:
    """The ledger with the shard of each row, and the row in it that a sound face has."""
    sound = np.asarray(pc.equal(ledger["reason"], ""))
    row = pa.array(np.cumsum(sound) - 1, pa.int32())
    return ledger.append_column("shard", pa.array(np.full(len(ledger), shard), pa.int32())).append_column("row", row)


def _first_of_each(table: pa.Table, column: str) -> np.ndarray:
    """The first row of each value, ascending."""
    return np.sort(np.unique(np.asarray(table[column].to_pylist(), dtype=np.str_), return_index=True)[1])


def _counted(column: pa.ChunkedArray) -> list[dict]:
    return pc.value_counts(column).to_pylist()


def _vocabulary(column: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(sorted(set(pc.unique(column).to_pylist()) - {""}))


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            digest.update(json.dumps([*row.values()]).encode() + b"\n")
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
