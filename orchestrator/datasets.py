"""Datasets by name.

datasets/<name>.json   written last, over what had the name; everything else is artifacts, see `orchestrator.ingest`
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from compgan_core.data import importers
from compgan_core.data.cache import decode
from compgan_core.data.face import Face, Skipped
from compgan_core.data.files import sha256
from compgan_core.data.labels import ATTRIBUTES, COLUMNS, Attribute, Labels
from compgan_core.data.shards import Manifest, labels_digest, labels_of, read_label_table, read_labels, read_shard
from compgan_core.errors import ConfigurationError, StorageError, did_you_mean
from compgan_core.pictures import distributions, face_grid
from orchestrator.artifacts.artifacts import Artifacts, Record
from orchestrator.artifacts.store import KeyMissing, Store
from orchestrator.bucket_source import open_anywhere
from orchestrator.ingest import DATASET, FACES, PIXELS, SHARD, Chunks, OnFace, Streamed, ingest

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SHEET_SIZE = 96
MISSING = -1


class Dataset(BaseModel, frozen=True, extra="forbid"):
    """What a name stands for."""

    fingerprint: str
    manifest: Manifest
    counts: dict[Attribute, dict[str, int]]
    """Faces by identity, pose and expression; those without such a label under the empty name."""

    def labels(self, artifacts: Artifacts) -> Labels:
        """What is known of each face, in the order of the keys."""
        return read_labels(self.fetch(artifacts))

    def fetch(self, artifacts: Artifacts) -> Path:
        """The directory with the manifest and the labels on this machine; not to be written to."""
        return artifacts.fetch(artifacts.require(DATASET, self.fingerprint))

    def shards(self, artifacts: Artifacts) -> list[Record]:
        """The records of its shards, in the order that the labels number them by."""
        record = artifacts.require(DATASET, self.fingerprint)
        return [artifacts.require(SHARD, name) for _, name in sorted(record.inputs.items())]


def import_dataset(
    artifacts: Artifacts,
    format: str,  # noqa: A002
    source: str | None,
    name: str,
    *,
    options: Mapping[str, str] | None = None,
    keep_going: bool = False,
    on_face: OnFace = lambda count: None,
    address: str | None = None,
) -> Dataset:
    """Bring labelled faces into the store. Either all is stored, or nothing under this name.

    source: a directory or archive of this machine, or s3://bucket/prefix; None for a format that makes its faces.
    options: of the format. See `orchestrator.ingest.ingest` for the rest.

    Raises:
        ConfigurationError: an unknown format or option, a missing source, or a name that cannot be one.
        DataError: the source cannot be read, or, without `keep_going`, an image does not decode.
    """
    _key(name)
    importers.check(format, source is not None, options or {})
    faces = partial(_read, format, source, dict(options or {}))
    return add_dataset(
        artifacts,
        Streamed(faces),
        name,
        source_format=format,
        keep_going=keep_going,
        on_face=on_face,
        address=address,
        here_only=not (source or "").startswith("s3://"),
    )


def add_dataset(
    artifacts: Artifacts,
    chunks: Chunks,
    name: str,
    *,
    source_format: str,
    keep_going: bool = False,
    on_face: OnFace = lambda count: None,
    address: str | None = None,
    here_only: bool = False,
) -> Dataset:
    """The same for faces that come from anywhere."""
    key = _key(name)
    artifacts.store.check()  # now, rather than after an hour of decoding
    record, manifest = ingest(
        artifacts,
        chunks,
        name=name,
        source_format=source_format,
        keep_going=keep_going,
        on_face=on_face,
        address=address,
        here_only=here_only,
    )
    labels = read_labels(artifacts.fetch(record))
    counts = {attribute: _counts(labels, attribute) for attribute in ATTRIBUTES}
    dataset = Dataset(fingerprint=record.fingerprint, manifest=manifest, counts=counts)
    artifacts.store.put_bytes(key, dataset.model_dump_json(indent=1).encode())
    return dataset


def find_dataset(store: Store, name: str) -> Dataset:
    """What was imported under a name. Raises ConfigurationError, with the nearest names, if nothing was."""
    key = _key(name)
    try:
        return Dataset.model_validate_json(store.get_bytes(key))
    except KeyMissing:
        names = dataset_names(store)
        hint = did_you_mean(name, names) if names else "none was imported yet, see orch data import --help"
        raise ConfigurationError(f"there is no dataset {name!r} in {store.url}: {hint}") from None
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise StorageError(f"{key} in {store.url} is damaged ({first}): import {name!r} again") from error


def dataset_names(store: Store) -> list[str]:
    """Everything that was imported, sorted."""
    return [key.removeprefix("datasets/").removesuffix(".json") for key in store.keys("datasets/")]


def remove_dataset(artifacts: Artifacts, name: str) -> int:
    """Forget a name, and remove the faces and tensor caches that no other name needs; how many bytes that were.

    What was trained on them stays.
    """
    gone = find_dataset(artifacts.store, name).fingerprint
    artifacts.store.delete(_key(name))
    if gone in {find_dataset(artifacts.store, other).fingerprint for other in dataset_names(artifacts.store)}:
        return 0
    freed = 0
    for whole, part, is_doomed in (
        (FACES, PIXELS, lambda record: record.inputs["dataset"] == gone),
        (DATASET, SHARD, lambda record: record.fingerprint == gone),
    ):
        records = [*artifacts.records(whole)]
        doomed = [record for record in records if is_doomed(record)]
        used = {name for record in records if record not in doomed for name in _parts(record)}
        for record in doomed:
            parts = [artifacts.record(part, name) for name in _parts(record) - used]
            freed += artifacts.delete(record) + sum(artifacts.delete(record) for record in parts if record)
    return freed


def verify_dataset(artifacts: Artifacts, dataset: Dataset, on_face: OnFace = lambda count: None) -> list[str]:
    """Read everything again from the store; what is not as the manifest, the labels and the checksums say."""
    table = read_label_table(dataset.fetch(artifacts))
    problems = [] if labels_digest(table) == dataset.manifest.digest else ["the labels are not those of the manifest"]
    expected = table.select([*COLUMNS, "sha256", "shard", "row"]).to_pylist()
    rows = {(face.pop("shard"), face.pop("row")): face for face in expected}
    for number, record in enumerate(dataset.shards(artifacts)):
        with tempfile.TemporaryDirectory(prefix="compgan-verify-") as scratch:
            path = Path(scratch) / "faces.parquet"
            try:
                artifacts.download(record, path.name, path)
            except StorageError as error:
                problems.append(str(error))
                continue
            for row, face in enumerate(read_shard(path)):
                wanted = rows.pop((number, row), None)  # None: a copy of another face
                found = {name: getattr(face, name) for name in COLUMNS} | {"sha256": sha256(face.image_bytes)}
                if wanted not in (None, found):
                    problems.append(
                        f"{found['key']} in shard {number} is not the face that was imported as {wanted['key']}"
                    )
        on_face(len(expected) - len(rows))
    return problems + [f"{face['key']} is in no shard that can be read" for face in rows.values()]


def write_sheet(
    artifacts: Artifacts, dataset: Dataset, path: Path, *, identities: int = 3, poses: int = 4, expressions: int = 8
) -> None:
    """Write a PNG of some of the faces: a row for a person in a pose, a column for an expression.

    Where the data does not say who a face is, the rows are of anyone.
    """
    table = read_label_table(dataset.fetch(artifacts))
    labels = labels_of(table)
    people, views, columns = (
        _spread(names, count) or [MISSING]
        for names, count in ((labels.identities, identities), (labels.poses, poses), (labels.expressions, expressions))
    )
    rows = [*product(people, range(1 if labels.identities else identities), views)]
    chosen = [[_nth(labels, number, (i, p, e)) for e in columns] for i, number, p in rows]
    pictures = _pictures(
        artifacts, dataset, table, sorted({face for row in chosen for face in row if face is not None})
    )
    pictures[None] = np.full((SHEET_SIZE, SHEET_SIZE, 3), 255, np.uint8)
    names = [*labels.identities, ""], [*labels.poses, ""], [*labels.expressions, ""]
    captions = [[f"{names[0][i]} {names[1][p]}".strip()] * len(columns) for i, _, p in rows]
    images = [[pictures[face] for face in row] for row in chosen]
    face_grid(images, [names[2][e] for e in columns], captions, [False] * len(columns), path)


def write_figure(dataset: Dataset, path: Path) -> None:
    """Write a PNG of the distributions: faces by identity, pose and expression (the paper's Figs. 5 and 6)."""
    distributions({what: counts for what, counts in dataset.counts.items() if set(counts) - {""}}, path)


def _nth(labels: Labels, number: int, cell: tuple[int, int, int]) -> int | None:
    """The row of the face of this number in a cell."""
    codes = (labels.identity, labels.pose, labels.expression)
    found = np.flatnonzero(np.logical_and.reduce([have == want for have, want in zip(codes, cell, strict=True)]))
    return int(found[number]) if number < len(found) else None


def _pictures(
    artifacts: Artifacts, dataset: Dataset, table: pa.Table, faces: list[int]
) -> dict[int | None, NDArray[np.uint8]]:
    """The pictures of these rows of the labels, decoded."""
    shards = dataset.shards(artifacts)
    found: dict[int | None, NDArray[np.uint8]] = {}
    places = dict(zip(faces, table.select(["shard", "row"]).take(faces).to_pylist(), strict=True))
    for shard in sorted({place["shard"] for place in places.values()}):
        here = {place["row"]: face for face, place in places.items() if place["shard"] == shard}
        path = artifacts.fetch(shards[shard]) / "faces.parquet"
        for row, face in zip(sorted(here), read_shard(path, sorted(here)), strict=True):
            found[here[row]] = decode(face.image_bytes, SHEET_SIZE, "center")
    return found


def _read(format: str, source: str | None, options: Mapping[str, str]) -> Iterator[Face | Skipped]:  # noqa: A002
    return importers.read(format, open_anywhere(source) if source else None, options)


def _parts(record: Record) -> set[str]:
    """The fingerprints of the shards of a data set, or of the parts of a tensor cache."""
    if record.stage == DATASET:
        return set(record.inputs.values())
    return {entry.key.split("/")[2] for entry in record.files.values()} - {record.fingerprint}


def _key(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a dataset: use up to 63 lower-case letters, digits, '.', '_' and '-', "
            "the first of them a letter or a digit"
        )
    return f"datasets/{name}.json"


def _counts(labels: Labels, attribute: Attribute) -> dict[str, int]:
    names = ("", *labels.names(attribute))
    counts = np.bincount(labels.codes(attribute) + 1, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _spread(names: tuple[str, ...], count: int) -> list[int]:
    """At most `count` positions in a vocabulary, evenly spaced."""
    count = min(count, len(names))
    return [i * len(names) // count for i in range(count)]
