"""Datasets by name.

artifacts/dataset/<fingerprint>/   the shards, named by what they hold: the same faces are stored once
datasets/<name>.json               written last; importing under a used name replaces this, and nothing else
"""

from __future__ import annotations

import inspect
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from compgan_core.data.cache import decode
from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import FORMATS
from compgan_core.data.labels import Attribute, Labels
from compgan_core.data.shards import Manifest, read_images, read_labels, write_dataset
from compgan_core.errors import ConfigurationError, DataError, StorageError, did_you_mean
from compgan_core.pictures import face_grid
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.fingerprint import fingerprint
from orchestrator.artifacts.store import KeyMissing, Store

STAGE, VERSION = "dataset", 1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Dataset(BaseModel, frozen=True, extra="forbid"):
    """What a name stands for."""

    fingerprint: str
    manifest: Manifest
    faces_by_pose: dict[str, int]
    faces_by_expression: dict[str, int]
    """Both count the faces without such a label under the empty name."""

    def fetch(self, artifacts: Artifacts) -> Path:
        """The directory with the shards on this machine, for `compgan_core.data`; not to be written to."""
        record = artifacts.record(STAGE, self.fingerprint)
        if record is None:
            name = self.manifest.name
            raise StorageError(f"the faces of {name!r} are gone from {artifacts.store.url}: import {name!r} again")
        return artifacts.fetch(record)


def import_dataset(
    artifacts: Artifacts,
    format: str,  # noqa: A002
    source: Path | None,
    name: str,
    *,
    keep_going: bool = False,
    on_face: Callable[[int], object] = lambda count: None,
) -> Dataset:
    """Bring labelled faces from this machine into the store. Either all is stored, or nothing under this name.

    source: None for a format that makes its faces itself.
    keep_going: leave out images that do not decode, and list them in the manifest.
    on_face: called with the number of faces read so far.

    Raises:
        ConfigurationError: an unknown format, a source where there is none to be or none where there is, or a name
            that cannot be one.
        DataError: the source cannot be read, or, without `keep_going`, an image does not decode.
    """
    faces = _counted(_read(format, source), on_face)
    return add_dataset(artifacts, faces, name, source_format=format, keep_going=keep_going)


def add_dataset(
    artifacts: Artifacts,
    faces: Iterable[Face | Skipped],
    name: str,
    *,
    source_format: str,
    keep_going: bool = False,
) -> Dataset:
    """The same for faces that come from anywhere."""
    key, started = _key(name), time.monotonic()
    artifacts.store.check()  # now, rather than after an hour of decoding
    with tempfile.TemporaryDirectory(prefix="compgan-import-") as scratch:
        directory = Path(scratch)
        manifest = write_dataset(
            faces,
            directory,
            name=name,
            source_format=source_format,
            on_bad="quarantine" if keep_going else "stop",
        )
        dataset = _describe(manifest, read_labels(directory))
        artifacts.publish(
            STAGE,
            dataset.fingerprint,
            directory,
            recipe=_recipe(manifest),
            inputs={},
            metrics={"faces": manifest.kept},
            seconds=time.monotonic() - started,
        )
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


def write_sheet(directory: Path, path: Path, *, identities: int = 3, poses: int = 4, expressions: int = 8) -> None:
    """Write a PNG of faces from a fetched dataset: a row for a person in a pose, a column for an expression."""
    labels = read_labels(directory)
    cells = labels.cells()
    if not cells:
        raise DataError(f"no face of {directory} has an identity, a pose and an expression, so there is no sheet")
    people, views, columns = (
        _spread(names, count)
        for names, count in (
            (labels.identities, identities),
            (labels.poses, poses),
            (labels.expressions, expressions),
        )
    )
    keys = {
        (i, p, e): labels.key[cells[i, p, e][0]] for i in people for p in views for e in columns if (i, p, e) in cells
    }
    wanted = set(keys.values())
    images = {face.key: decode(face.image_bytes, 96, "center") for face in read_images(directory) if face.key in wanted}
    blank = np.full((96, 96, 3), 255, np.uint8)
    rows = [[images.get(keys.get((i, p, e), ""), blank) for e in columns] for i in people for p in views]
    captions = [[f"{labels.identities[i]} {labels.poses[p]}"] * len(columns) for i in people for p in views]
    face_grid(rows, [labels.expressions[e] for e in columns], captions, [False] * len(columns), path)


def _read(format: str, source: Path | None) -> Iterator[Face | Skipped]:  # noqa: A002
    if format not in FORMATS:
        raise ConfigurationError(f"there is no format {format!r}: {did_you_mean(format, sorted(FORMATS))}")
    takes_source = "source" in inspect.signature(FORMATS[format]).parameters
    if takes_source and source is None:
        raise ConfigurationError(f"{format} needs a SOURCE: name the archive or the directory")
    if source is not None and not takes_source:
        raise ConfigurationError(f"{format} makes its own faces and reads no SOURCE: leave out {str(source)!r}")
    return FORMATS[format](source) if takes_source else FORMATS[format]()


def _describe(manifest: Manifest, labels: Labels) -> Dataset:
    return Dataset(
        fingerprint=fingerprint(STAGE, VERSION, _recipe(manifest), {}),
        manifest=manifest,
        faces_by_pose=_counts(labels, "pose"),
        faces_by_expression=_counts(labels, "expression"),
    )


def _recipe(manifest: Manifest) -> dict[str, str]:
    return {"digest": manifest.digest}


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


def _counted(faces: Iterable[Face | Skipped], on_face: Callable[[int], object]) -> Iterator[Face | Skipped]:
    for count, face in enumerate(faces, start=1):
        on_face(count)
        yield face


def _spread(names: tuple[str, ...], count: int) -> list[int]:
    """At most `count` positions in a vocabulary, evenly spaced."""
    count = min(count, len(names))
    return [i * len(names) // count for i in range(count)]
