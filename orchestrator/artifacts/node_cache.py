"""What this node has fetched: a directory an artifact, shared by all processes, the least recently used removed first.

Whoever uses an entry holds a shared lock on it until it lets go or its process ends, so that only what nobody uses is
removed, and a process that was killed holds nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compgan_core.errors import CapacityError
from orchestrator.artifacts.counts import COUNTS

GIB = 1 << 30
LOCK, PARTIAL, SIZE = ".lock", ".partial", ".bytes"
RETRY_S = 0.02

_one_thread = threading.Lock()  # flock tells open files apart, not threads


@dataclass(frozen=True)
class NodeCache:
    """Entries under `directory`, on a disk of this node. May be pickled: the copy finds the same entries.

    limit_bytes: what the entries may take together, except those in use. None: what the disk has room for.
    """

    directory: Path
    limit_bytes: int | None = None
    _held: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    """Entry -> the open lock file."""

    def get(self, name: str, size_bytes: int, fill: Callable[[Path], object]) -> Path:
        """The entry under a relative name, which `fill` writes into an empty directory where it is missing.

        Processes that ask at once fill it once. Raises CapacityError if the disk has no room for `size_bytes`.
        """
        target = self.directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_thread:
            if name not in self._held:
                self._held[name] = os.open(f"{target}{LOCK}", os.O_RDWR | os.O_CREAT, 0o666)
            held = self._hold(name, target)
            COUNTS["node_cache_hits" if held else "node_cache_misses"] += 1
            while not held:
                try:  # without waiting: whoever filled it meanwhile holds it for as long as a stage takes
                    with self._locked(target, fcntl.LOCK_EX | fcntl.LOCK_NB):
                        if not target.is_dir():
                            self._make_room(size_bytes)
                            self._fill(target, size_bytes, fill)
                except BlockingIOError:
                    time.sleep(RETRY_S)
                held = self._hold(name, target)
        os.utime(target)
        return target

    def release(self) -> None:
        """Let go of all entries: nothing in this process may read them, or map them, any more."""
        with _one_thread:
            while self._held:
                os.close(self._held.popitem()[1])

    def size_bytes(self) -> int:
        """What all entries take."""
        return sum(size for _, size, _ in self._entries())

    def _hold(self, name: str, target: Path) -> bool:
        """Take the shared lock; True if the entry is there, and then it stays."""
        fcntl.flock(self._held[name], fcntl.LOCK_SH)
        if target.is_dir():
            return True
        fcntl.flock(self._held[name], fcntl.LOCK_UN)
        return False

    def _fill(self, target: Path, size_bytes: int, fill: Callable[[Path], object]) -> None:
        partial = Path(f"{target}{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: we hold the lock
        partial.mkdir()
        fill(partial)
        Path(f"{target}{SIZE}").write_text(str(size_bytes))
        partial.replace(target)

    def _make_room(self, size_bytes: int) -> None:
        free = shutil.disk_usage(self.directory).free
        room = free if self.limit_bytes is None else min(free, self.limit_bytes - self.size_bytes())
        for _, size, entry in sorted(self._entries()):
            if room >= size_bytes:
                break
            room += size if self._remove(entry) else 0
        free = shutil.disk_usage(self.directory).free
        if free < size_bytes:
            raise CapacityError(
                f"the disk of {self.directory} has {free / GIB:.1f} GiB free and {size_bytes / GIB:.1f} GiB are to be "
                "fetched: free some, or set COMPGAN_CACHE to a larger disk"
            )

    def _remove(self, entry: Path) -> bool:
        """Remove an entry that no process uses."""
        try:
            with self._locked(entry, fcntl.LOCK_EX | fcntl.LOCK_NB):
                gone = entry.with_name(f"{entry.name}{PARTIAL}")
                entry.replace(gone)  # at once, so that a kill leaves no half of an entry
                shutil.rmtree(gone)
        except BlockingIOError:
            return False
        return True

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(when it was last asked for, bytes, place) of every entry."""
        for path in self.directory.glob(f"*/*/*{SIZE}"):
            entry = path.with_name(path.name.removesuffix(SIZE))
            if entry.is_dir():
                yield entry.stat().st_mtime, int(path.read_text() or 0), entry

    @staticmethod
    @contextmanager
    def _locked(target: Path, how: int) -> Iterator[None]:
        lock = os.open(f"{target}{LOCK}", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_held": {}}
