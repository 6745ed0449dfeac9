"""Finished stages: their files under a prefix of their own, and one record, written last, that makes them true.

    artifacts/<stage>/<fingerprint>/record.json          create-only: whoever finishes first is the artifact
    artifacts/<stage>/<fingerprint>/<attempt>/<file>     never overwritten; without a record they are litter

A process killed at any point leaves no record, so nobody takes half an artifact for a whole one. An artifact may also
refer to files of other artifacts, so that a whole is put together from parts that were made, and are kept, one by one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from compgan_core.errors import ConfigurationError, StorageError
from orchestrator.artifacts.fingerprint import plain
from orchestrator.artifacts.node_cache import GIB, NodeCache
from orchestrator.artifacts.provenance import code_version, host, library_versions
from orchestrator.artifacts.store import KeyMissing, Store, open_store, valid_key

ARTIFACTS = "artifacts"
LIST_FROM = 200
"""Records of one stage, from which on a listing is faster than asking for each."""
PARALLEL_FILES = 4  # each large file is itself read in parallel ranges


def _relative(name: str) -> str:
    if not valid_key(name):
        raise ValueError(f"{name!r} is not a plain relative path")
    return name


RelativePath = Annotated[str, AfterValidator(_relative)]


class FileEntry(BaseModel, frozen=True, extra="forbid"):
    key: RelativePath
    size_bytes: int
    sha256: str


class Record(BaseModel):
    """A complete artifact, and where it came from. `created` is UTC, ISO 8601; `seconds` is the time to make it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    fingerprint: str
    recipe: dict[str, Any]
    inputs: dict[str, str]
    files: dict[RelativePath, FileEntry]
    metrics: dict[str, Any]
    seconds: float
    created: str
    code_version: str
    libraries: dict[str, str]
    host: str

    @model_validator(mode="after")
    def _files_of_artifacts_only(self) -> Record:
        for entry in self.files.values():
            if not entry.key.startswith(f"{ARTIFACTS}/"):
                raise ValueError(f"{entry.key} lies outside {ARTIFACTS}/")
        return self

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files.values())


class Artifacts:
    """The artifacts of one store, with this node's cache of their files. Threads and processes may share both."""

    def __init__(self, store: Store, cache: NodeCache):
        self.store, self.cache = store, cache

    def record(self, stage: str, fingerprint: str) -> Record | None:
        """The record of a finished stage; None if it is not finished. Raises StorageError if it is damaged."""
        key = f"{home_of(stage, fingerprint)}record.json"
        try:
            text = self.store.get_bytes(key)
        except KeyMissing:
            return None
        try:
            record = Record.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise self._damaged(key, f"{place}: {first['msg']}" if place else first["msg"]) from error
        if (record.stage, record.fingerprint) != (stage, fingerprint):
            raise self._damaged(key, f"it describes {record.stage}/{record.fingerprint}")
        return record

    def recorded(self, stages: Iterable[tuple[str, str]]) -> set[str]:
        """The fingerprints of those (stage, fingerprint) that are finished; asked for many at a time.

        Where it is asked for very many of one stage, their names are listed, and no record is read.
        """
        by_stage: dict[str, set[str]] = {}
        for stage, fingerprint in stages:
            by_stage.setdefault(stage, set()).add(fingerprint)
        few = [(stage, name) for stage, names in by_stage.items() if len(names) <= LIST_FROM for name in names]
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            found = {record.fingerprint for record in pool.map(lambda s: self.record(*s), few) if record}
        for stage, names in by_stage.items():
            if len(names) > LIST_FROM:
                keys = (key.split("/") for key in self.store.keys(f"{ARTIFACTS}/{stage}/"))
                found |= names & {parts[2] for parts in keys if parts[3:] == ["record.json"]}
        return found

    def require(self, stage: str, fingerprint: str) -> Record:
        """The record of a stage that must be there. Raises StorageError if it is not."""
        record = self.record(stage, fingerprint)
        if record is None:
            raise StorageError(f"{stage}/{fingerprint} is gone from {self.store.url}: import the data again")
        return record

    def records(self, stage: str | None = None) -> Iterator[Record]:
        """All finished stages, or those of one name, sorted by stage and fingerprint."""
        for key in self.store.keys(f"{ARTIFACTS}/{stage}/" if stage else f"{ARTIFACTS}/"):
            parts = key.split("/")
            if len(parts) == 4 and parts[3] == "record.json":
                record = self.record(parts[1], parts[2])
                if record:
                    yield record

    def publish(
        self,
        stage: str,
        fingerprint: str,
        directory: Path,
        *,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, str],
        metrics: Mapping[str, Any],
        seconds: float,
        references: Mapping[str, FileEntry] = MappingProxyType({}),
    ) -> Record:
        """Store every file of a directory as the artifact of a stage. If another process was first, return theirs.

        references: name -> a file of another artifact that belongs to this one, too.

        Raises:
            ConfigurationError: a recipe or metric that JSON cannot hold.
            StorageError: the store failed; nothing is published.
        """
        facts = {"recipe": plain(recipe, "recipe"), "metrics": plain(metrics, "metrics"), "inputs": dict(inputs)}
        theirs = self.record(stage, fingerprint)
        if theirs:
            return theirs
        record = Record(
            stage=stage,
            fingerprint=fingerprint,
            files=self._upload(directory, f"{home_of(stage, fingerprint)}{uuid.uuid4().hex[:12]}") | dict(references),
            seconds=seconds,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            code_version=code_version(),
            libraries=library_versions(),
            host=host(),
            **facts,
        )
        text = record.model_dump_json(indent=1).encode()
        if self.store.put_bytes(f"{home_of(stage, fingerprint)}record.json", text, create_only=True):
            return record
        return self._second(record)

    def fetch(self, record: Record) -> Path:
        """The directory with an artifact's files on this node: complete, verified, and not to be written to.

        Downloaded once per node; other processes wait for the first one. It stays as long as this process does.

        Raises:
            StorageError: a file is missing, or is not what was stored, also when read again.
        """
        place = f"{record.stage}/{record.fingerprint}/{_content_digest(record)}"
        return self.cache.get(place, record.size_bytes, lambda directory: self._download(record, directory))

    def download(self, record: Record, name: str, path: Path) -> None:
        """Write one file of an artifact to `path`, verified, past the node's cache. Raises StorageError as `fetch`."""
        self._download_file(record.files[name], path)

    def read(self, record: Record, name: str) -> bytes:
        """One small file of an artifact, verified. Raises StorageError as `fetch`."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "file"
            self.download(record, name, path)
            return path.read_bytes()

    def delete(self, record: Record) -> int:
        """Remove an artifact, its record first; its bytes. Files of other artifacts that it refers to stay."""
        home = home_of(record.stage, record.fingerprint)
        self.store.delete(f"{home}record.json")
        for key in [*self.store.keys(home)]:
            self.store.delete(key)
        return sum(entry.size_bytes for entry in record.files.values() if entry.key.startswith(home))

    def _upload(self, directory: Path, prefix: str) -> dict[str, FileEntry]:
        def upload(path: Path) -> tuple[str, FileEntry]:
            name = path.relative_to(directory).as_posix()
            entry = FileEntry(key=f"{prefix}/{name}", size_bytes=path.stat().st_size, sha256=sha256_of(path))
            self.store.put_file(entry.key, path)
            return name, entry

        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            return dict(pool.map(upload, paths))

    def _second(self, ours: Record) -> Record:
        theirs = self.record(ours.stage, ours.fingerprint)
        if theirs is None:
            raise StorageError(f"the record of {ours.stage}/{ours.fingerprint} was deleted while it was published")
        if theirs != ours:  # equal when the answer to our own write was lost and the write repeated
            for entry in ours.files.values():
                if entry.key.startswith(home_of(ours.stage, ours.fingerprint)):
                    self.store.delete(entry.key)
        return theirs

    def _download(self, record: Record, directory: Path) -> None:
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(lambda item: self._download_file(item[1], directory / item[0]), record.files.items()))

    def _download_file(self, entry: FileEntry, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # bytes can be damaged on the way; twice means they are damaged in the store
            self.store.get_file(entry.key, path)
            found = (path.stat().st_size, sha256_of(path))
            if found == (entry.size_bytes, entry.sha256):
                return
        raise StorageError(
            f"{entry.key} in {self.store.url} is damaged: expected {entry.size_bytes} bytes with SHA-256 "
            f"{entry.sha256}, got {found[0]} bytes with {found[1]}; delete its record.json to have it made again"
        )

    def _damaged(self, key: str, why: str) -> StorageError:
        return StorageError(f"{key} in {self.store.url} is damaged ({why}); delete it to have the stage made again")


def open_artifacts(url: str) -> Artifacts:
    """The store at a URL, and where this machine keeps what it fetched: $COMPGAN_CACHE, else ~/.cache/compgan.

    $COMPGAN_CACHE_GIB bounds what it keeps; without it, the disk does.
    """
    directory = Path(os.environ.get("COMPGAN_CACHE", "~/.cache/compgan")).expanduser().absolute()
    limit = os.environ.get("COMPGAN_CACHE_GIB") or None
    try:
        cache = NodeCache(directory, limit and int(float(limit) * GIB))
    except ValueError:
        raise ConfigurationError(f"COMPGAN_CACHE_GIB is {limit!r}: set it to a number of GiB, or unset it") from None
    return Artifacts(open_store(url), cache)


def home_of(stage: str, fingerprint: str) -> str:
    """The prefix that everything of one artifact lies under."""
    return f"{ARTIFACTS}/{stage}/{fingerprint}/"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_digest(record: Record) -> str:
    """Two stores may hold different files for one fingerprint, and share a node: the cache goes by content."""
    lines = "\n".join(f"{name} {entry.sha256}" for name, entry in sorted(record.files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]
