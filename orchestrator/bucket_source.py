"""Source files that lie in a bucket: a prefix with one object a file, or an archive."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from pathlib import Path

from compgan_core.data.importers.archives import ARCHIVES, Member, Source, is_junk, open_source, unpacked
from compgan_core.data.importers.names import base
from compgan_core.errors import DataError
from orchestrator.artifacts.store import Store, open_store

AHEAD = 64  # objects on their way at once: a bucket answers slowly, but many at a time


def open_anywhere(source: str) -> Source:
    """The files of a directory, an archive, or a bucket (`s3://bucket/prefix`, or an archive in one)."""
    return Bucket(source) if source.startswith("s3://") else open_source(Path(source))


@dataclass(frozen=True)
class Bucket:
    """The objects under a prefix; keys and endpoint come from the usual AWS variables, profile or role."""

    name: str

    def files(self) -> Iterator[Member]:
        """(name, content) of every file, in the order of the names; archives as the folders that they unpack to."""
        if _is_archive(self.name):
            yield from open_source(_fetched(self.name)).files()
            return
        store, keys = self._listed()
        with ThreadPoolExecutor(AHEAD) as pool:
            for packed, names in groupby(keys, _is_archive):
                while batch := [*islice(names, 1 if packed else AHEAD)]:
                    if packed:
                        yield from unpacked(batch[0], _fetched(f"{self.name.rstrip('/')}/{batch[0]}"))
                    else:
                        yield from zip(batch, pool.map(store.get_bytes, batch), strict=True)

    def find(self, *names: str) -> Member | None:
        """The file nearest to the top with one of these base names."""
        if _is_archive(self.name):
            return open_source(_fetched(self.name)).find(*names)
        store, keys = self._listed()
        found = sorted((key for key in keys if base(key) in names), key=lambda key: key.count("/"))
        return (found[0], store.get_bytes(found[0])) if found else None

    def _listed(self) -> tuple[Store, list[str]]:
        store = open_store(self.name)
        keys = [key for key in store.keys() if not is_junk(key)]
        if not keys:
            raise DataError(f"there is no object under {self.name}: give a prefix with faces, or an archive")
        return store, keys


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


@cache
def _fetched(url: str) -> Path:
    """An archive in a bucket as a file of this machine, for as long as this process lives."""
    place, _, file = url.rpartition("/")
    scratch = tempfile.mkdtemp(prefix="compgan-archive-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    open_store(place).get_file(file, Path(scratch) / file)
    return Path(scratch) / file
