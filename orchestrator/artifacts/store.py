"""Where bytes are kept: an S3 bucket or a directory, behind the same dozen methods.

A key is a relative path with `/`, such as `artifacts/compgan/3f2a/record.json`. An object becomes visible whole or not
at all. `put_bytes(create_only=True)` is the only primitive of agreement between processes, since not every
S3-compatible store has compare-and-swap.

A Store may be pickled: it carries its URL, its endpoint and its region, never keys.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from compgan_core.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PARTIAL = ".partial"  # what a killed write leaves behind in a directory store lies here, and is never listed


class KeyMissing(StorageError):
    """There is no object under this key."""

    def __init__(self, url: str, key: str):
        super().__init__(f"{url} has no object {key}")


@dataclass(frozen=True)
class Stored:
    """An object, or a write that was begun and not finished."""

    key: str
    size_bytes: int
    modified: float
    """Seconds since 1970 by the store's clock, which may not be this machine's."""
    upload: str = ""
    """What names the write, if it is one."""


class Store(Protocol):
    """Every method raises StorageError with one sentence when the store fails."""

    url: str

    def patient(self) -> Store:
        """The same store for work that is worth waiting for: a request is repeated for minutes before it fails."""

    def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        """Store an object. With `create_only`, False if the key exists already: of many callers one gets True."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a file's content, large ones in parallel parts."""

    def get_bytes(self, key: str) -> bytes:
        """A whole small object. Raises KeyMissing."""

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to `path`, which appears complete or not at all; large ones in parallel ranges.

        Raises KeyMissing.
        """

    def exists(self, key: str) -> bool: ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with `prefix`, sorted."""

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        """What `keys` names, with sizes and times."""

    def unfinished(self) -> Iterator[Stored]:
        """Writes that were begun, by processes that go on or were killed. A size that is unknown is 0."""

    def remove(self, stored: Stored) -> None:
        """Remove an object, or what there is of a write; no error if it is gone."""

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""

    def check(self, *, create: bool = False) -> None:
        """Prove that the store is there, readable, writable, and honours `create_only`, before hours depend on it.

        create: make a missing bucket. A directory is always made. A bucket is made only when asked for, because a
        mistyped name would otherwise become a new, empty store.
        """

    def ray_storage(self) -> tuple[str, FileSystem | None]:
        """(storage_path, storage_filesystem) for `ray.train.RunConfig`. The filesystem holds no keys."""


def open_store(url: str | Path) -> Store:
    """The store at `s3://bucket/prefix`, `file:///path`, or a directory path. Nothing is contacted yet.

    Endpoint, region and keys of S3 come from the usual AWS variables, profile or role.

    Raises:
        ConfigurationError: another scheme, no bucket, or keys inside the URL.
        StorageError: the AWS configuration cannot be read.
    """
    text = os.fspath(url)
    parts = urlsplit(text) if "://" in text else None
    if parts is None:
        return DirectoryStore(Path(text))
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme != "s3":
        raise ConfigurationError(
            f"a store is s3://bucket/prefix, file:///path or a directory, not {parts.scheme}://..."
        )
    if "@" in parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            "an S3 URL is s3://bucket/prefix and nothing else: keys and endpoint come from AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or from a profile or role"
        )
    if not parts.netloc:
        raise ConfigurationError(f"{text} names no bucket: write s3://bucket/prefix")
    from orchestrator.artifacts.s3 import S3Store  # boto3 takes half a second to import

    return S3Store(parts.netloc, parts.path.strip("/"))


def valid_key(key: str) -> bool:
    """Whether a key is a plain relative path that means the same in a bucket and in a directory."""
    parts = key.split("/")
    return parts[0] != PARTIAL and "\\" not in key and all(part not in ("", ".", "..") for part in parts)


class DirectoryStore:
    """Objects as files under one directory, which all processes see: a local disk, or a shared file system."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.url = str(self.root)

    def patient(self) -> DirectoryStore:
        return self  # what a disk refuses it refuses at once

    def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        with self._errors("write", key), self._partial() as partial:
            partial.write_bytes(data)
            return self._install(partial, key, create_only)

    def put_file(self, key: str, path: Path) -> None:
        with self._errors("write", key), self._partial() as partial:
            shutil.copyfile(path, partial)
            self._install(partial, key, create_only=False)

    def get_bytes(self, key: str) -> bytes:
        with self._errors("read", key):
            return self._path(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        with self._errors("read", key):
            try:
                shutil.copyfile(self._path(key), partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        with self._errors("read", key):
            return self._path(key).is_file()

    def keys(self, prefix: str = "") -> Iterator[str]:
        base = self.root / prefix.rpartition("/")[0]
        with self._errors("list", prefix):
            # Ten times faster than Path.rglob, where there are tens of thousands.
            walked = os.walk(base, onerror=_unless_gone)
            found = [f"{directory}/{name}"[len(self.url) + 1 :] for directory, _, names in walked for name in names]
        yield from sorted(key for key in found if key.startswith(prefix) and not key.startswith(f"{PARTIAL}/"))

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        return self._stored(self.keys(prefix))

    def unfinished(self) -> Iterator[Stored]:
        with self._errors("list", PARTIAL):
            names = [path.name for path in (self.root / PARTIAL).glob("*")]
        for stored in self._stored(f"{PARTIAL}/{name}" for name in names):
            yield replace(stored, upload=stored.key)

    def remove(self, stored: Stored) -> None:
        with self._errors("delete", stored.key):
            (self.root / stored.key).unlink(missing_ok=True)

    def _stored(self, keys: Iterable[str]) -> Iterator[Stored]:
        for key in keys:
            try:
                with self._errors("read", key):
                    about = (self.root / key).stat()
            except KeyMissing:
                continue  # it has been removed meanwhile
            yield Stored(key, about.st_size, about.st_mtime)

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._path(key).unlink(missing_ok=True)

    def check(self, *, create: bool = False) -> None:
        prove_usable(self)

    def ray_storage(self) -> tuple[str, FileSystem | None]:
        return self.url, None

    def _path(self, key: str) -> Path:
        assert valid_key(key), key
        return self.root / key

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        directory = self.root / PARTIAL
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / uuid.uuid4().hex
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _install(self, partial: Path, key: str, create_only: bool) -> bool:
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not create_only:
            partial.replace(target)
            return True
        try:
            os.link(partial, target)  # fails when the target exists; rename would overwrite
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if action != "read":
                raise StorageError(f"cannot {action} {key} in {self.url}: {error.strerror}") from error
            raise KeyMissing(self.url, key) from error
        except OSError as error:
            raise StorageError(f"cannot {action} {key} in {self.url}: {error.strerror or error}") from error


def _unless_gone(error: OSError) -> None:
    """A directory that another process has just removed, or that was never made, holds nothing."""
    if not isinstance(error, FileNotFoundError):
        raise error


def prove_usable(store: Store) -> None:
    """Write, read, refuse to write twice, and delete one small object."""
    key, data = f"check/{uuid.uuid4().hex}", b"orch was here"
    store.put_bytes(key, data, create_only=True)
    try:
        if store.get_bytes(key) != data:
            raise StorageError(f"{store.url} returned other bytes than were stored a moment ago")
        if store.put_bytes(key, data, create_only=True):
            raise StorageError(
                f"{store.url} ignores If-None-Match, so two processes could own the same stage; "
                "use a store with conditional writes"
            )
    finally:
        store.delete(key)
