"""A data set at rest: Parquet shards of encoded pictures and labels, and one manifest, written last."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError, model_validator

from compgan_core.data.face import Face, Skipped
from compgan_core.data.files import DataFile, describe_file, write_last
from compgan_core.data.labels import Labels
from compgan_core.errors import ConfigurationError, DataError

LABEL_COLUMNS = ["identity", "pose", "expression", "sequence", "frame", "key"]
OnBad = Literal["stop", "quarantine"]


class Quarantined(BaseModel, frozen=True, extra="forbid"):
    """A broken source file that was left out, and why."""

    key: str
    reason: str


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
    """Readers pass over these rows, so that which copy counts does not depend on the order of reading."""
    excluded: dict[str, int]
    """Files that the importer's rules leave out, by reason; not among those read."""
    identities: tuple[str, ...]
    poses: tuple[str, ...]
    expressions: tuple[str, ...]
    files: tuple[DataFile, ...]
    digest: str
    """sha256 over the sorted keys, labels and picture hashes: the same however the faces are sharded or ordered."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.read != self.kept + len(self.quarantined) + len(self.duplicates):
            raise ValueError(f"read {self.read} is not kept {self.kept} + quarantined + duplicates")
        return self


def write_dataset(
    faces: Iterable[Face | Skipped],
    directory: Path,
    *,
    name: str,
    source_format: str = "",
    on_bad: OnBad = "stop",
    rows_per_shard: int = 8192,
) -> Manifest:
    """Decode every picture to prove it sound, and write the data set into `directory`.

    on_bad: at the first broken file, "stop" raises a DataError that names it; "quarantine" goes on and lists them all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "manifest.json").exists():
        raise ConfigurationError(f"{directory} already holds a data set: remove it, or write to another directory")
    tally = _Tally(on_bad)
    sound = tally.sift(faces)
    files: list[DataFile] = []
    while chunk := list(islice(sound, rows_per_shard)):
        files.append(_write_shard(directory / f"part-{len(files):05d}.parquet", chunk))
    manifest = tally.manifest(name, source_format, files)
    write_last(directory / "manifest.json", manifest.model_dump_json(indent=1))
    return manifest


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


def read_labels(directory: Path) -> Labels:
    """The labels of a data set, in the order of the keys."""
    manifest = read_manifest(directory)
    table = pa.concat_tables(pq.read_table(p, columns=LABEL_COLUMNS) for p in _shards(directory, manifest))
    dropped = pa.array([duplicate.key for duplicate in manifest.duplicates], pa.string())
    table = table.filter(pa.compute.invert(pa.compute.is_in(table["key"], dropped)))
    return labels_by_key(table)[0]


def labels_by_key(table: pa.Table) -> tuple[Labels, np.ndarray]:
    """The label columns of a table, sorted by key, and the place in the table that each row came from."""
    order = np.argsort(np.asarray(table["key"].to_pylist(), dtype=np.str_), kind="stable")
    return Labels.from_names(**table.select(LABEL_COLUMNS).to_pydict()).take(order), order


def read_images(directory: Path) -> Iterator[Face]:
    """The faces of a data set, as they lie in the shards."""
    manifest = read_manifest(directory)
    dropped = {duplicate.key for duplicate in manifest.duplicates}
    for path in _shards(directory, manifest):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=[*LABEL_COLUMNS, "image_bytes"]):
            yield from (Face(**row) for row in batch.to_pylist() if row["key"] not in dropped)


@dataclass
class _Tally:
    """Sorts faces into kept, broken, and copies while they stream by."""

    on_bad: OnBad
    faces: dict[str, tuple] = field(default_factory=dict)
    keys_by_hash: dict[str, list[str]] = field(default_factory=dict)
    quarantined: list[Quarantined] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)

    def sift(self, faces: Iterable[Face | Skipped]) -> Iterator[tuple[Face, str]]:
        """The sound faces, each with the sha256 of its picture."""
        for face in faces:
            if isinstance(face, Skipped):
                self._skip(face)
            elif face.key in self.faces:
                self._skip(Skipped(face.key, "the source lists it twice", broken=True))
            elif defect := image_defect(face.image_bytes):
                self._skip(Skipped(face.key, defect, broken=True))
            else:
                digest = hashlib.sha256(face.image_bytes).hexdigest()
                self.keys_by_hash.setdefault(digest, []).append(face.key)
                labels = face.identity, face.pose, face.expression, face.sequence, face.frame
                self.faces[face.key] = (*labels, digest)
                yield face, digest

    def manifest(self, name: str, source_format: str, files: list[DataFile]) -> Manifest:
        """The manifest of all that went by; a DataError if nothing did."""
        if not self.faces:
            left_out = ", ".join(f"{n} {reason}" for reason, n in self.excluded.items()) or "no files"
            raise DataError(
                f"no face was found in {name!r} as {source_format} ({left_out}): check the source and the format"
            )
        duplicates = [
            Duplicate(key=key, copy_of=kept)
            for kept, *copies in map(sorted, self.keys_by_hash.values())
            for key in copies
        ]
        dropped = {duplicate.key for duplicate in duplicates}
        kept = sorted((key, *labels) for key, labels in self.faces.items() if key not in dropped)
        vocabularies = [tuple(sorted({row[i] for row in kept} - {""})) for i in (1, 2, 3)]
        return Manifest(
            name=name,
            format=source_format,
            read=len(self.faces) + len(self.quarantined),
            kept=len(kept),
            quarantined=tuple(self.quarantined),
            duplicates=tuple(sorted(duplicates, key=lambda duplicate: duplicate.key)),
            excluded=dict(sorted(self.excluded.items())),
            identities=vocabularies[0],
            poses=vocabularies[1],
            expressions=vocabularies[2],
            files=tuple(files),
            digest=hashlib.sha256("\n".join(map(json.dumps, kept)).encode()).hexdigest(),
        )

    def _skip(self, skipped: Skipped) -> None:
        if not skipped.broken:
            self.excluded[skipped.reason] += 1
        elif self.on_bad == "stop":
            raise DataError(f"{skipped.key}: {skipped.reason}; mend it, or go on without such files with --keep-going")
        else:
            self.quarantined.append(Quarantined(key=skipped.key, reason=skipped.reason))


def image_defect(image: bytes) -> str:
    """Why Pillow cannot decode a picture; empty if it can."""
    if not image:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "not an image" if isinstance(error, UnidentifiedImageError) else f"damaged ({error})"
        return f"the file is {kind}"
    return ""


def _write_shard(path: Path, faces: list[tuple[Face, str]]) -> DataFile:
    columns = {name: [getattr(face, name) for face, _ in faces] for name in (*LABEL_COLUMNS, "image_bytes")}
    table = pa.table(columns | {"sha256": [digest for _, digest in faces]})
    pq.write_table(table, path, compression="zstd", row_group_size=1024)
    return describe_file(path, len(faces))


def _shards(directory: Path, manifest: Manifest) -> Iterator[Path]:
    for file in manifest.files:
        path = directory / file.name
        found = path.stat().st_size if path.exists() else 0
        if found != file.bytes:
            raise DataError(f"{path} has {found} bytes, but the manifest says {file.bytes}: fetch or import it again")
        yield path
