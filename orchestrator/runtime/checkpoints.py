"""Which checkpoints of a stage exist, for whoever continues it: this run, another driver, another number of workers.

    checkpoints/<stage>/<fingerprint>/<step>.json    written after the files that it names

A checkpoint exists only if this small object does. So a worker that is killed while it saves leaves litter, never half
a checkpoint, and Ray Train's own memory of a run, which neither an upgrade nor a deleted directory survives, is not
needed to continue it.

Files go to the store beside the training (`Upload`), one checkpoint at a time. Until one is acknowledged, a resume
relies on the one before it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from compgan_core.errors import StorageError
from orchestrator.artifacts.artifacts import FileEntry, RelativePath, sha256_of
from orchestrator.artifacts.store import KeyMissing, Store

CHECKPOINTS = "checkpoints"


class Checkpoint(BaseModel, frozen=True, extra="forbid"):
    """A complete checkpoint: where its files lie in the store, by the names they were written under."""

    step: int
    files: dict[RelativePath, FileEntry]


class Damaged(StorageError):
    """A checkpoint that was complete once is not what it was."""


class Checkpoints:
    """The acknowledged checkpoints of one stage."""

    def __init__(self, store: Store, stage: str, fingerprint: str):
        self.store, self._prefix = store, f"{CHECKPOINTS}/{stage}/{fingerprint}/"

    def acknowledge(self, checkpoint: Checkpoint, keep: int) -> None:
        """From here on it exists, and of the older ones only the newest `keep - 1`.

        Later steps than this one were damaged, or this run would have begun after them; they go, too.
        """
        mine = self._key(checkpoint.step)
        self.store.put_bytes(mine, checkpoint.model_dump_json(indent=1).encode())
        keys = self._keys()
        for key in keys[: max(0, keys.index(mine) + 1 - keep)] + keys[keys.index(mine) + 1 :]:
            self._remove(key)

    def fetch_newest(self, directory: Path, log: Callable[[str], None]) -> int | None:
        """Copy the newest checkpoint that is still whole into a directory; its step, or None if there is none.

        Raises StorageError if the store cannot be read: to start again from nothing then would waste days.
        """
        for key in reversed(self._keys()):
            try:
                return self._fetch(key, directory)
            except (KeyMissing, Damaged) as error:
                log(f"a checkpoint cannot be used, trying the one before it: {error}")
        return None

    def fetch(self, step: int, directory: Path) -> None:
        """Copy one checkpoint into a directory. Raises StorageError if it is missing or damaged."""
        self._fetch(self._key(step), directory)

    def discard(self) -> None:
        """Remove them all, once the stage's artifact is recorded."""
        for key in self._keys():
            self._remove(key)

    def _fetch(self, key: str, directory: Path) -> int:
        checkpoint = self._read(key)
        for name, entry in checkpoint.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store.get_file(entry.key, path)
            if (path.stat().st_size, sha256_of(path)) != (entry.size_bytes, entry.sha256):
                raise Damaged(f"{entry.key} in {self.store.url} is not what was saved at step {checkpoint.step}")
        return checkpoint.step

    def _read(self, key: str) -> Checkpoint:
        try:
            return Checkpoint.model_validate_json(self.store.get_bytes(key))
        except ValidationError as error:
            raise Damaged(f"{key} in {self.store.url} is not a checkpoint: {error.errors()[0]['msg']}") from error

    def _remove(self, key: str) -> None:
        try:
            files = self._read(key).files
        except (KeyMissing, Damaged):
            files = {}
        self.store.delete(key)  # first, since it must never name what is gone
        for entry in files.values():
            self.store.delete(entry.key)

    def _keys(self) -> list[str]:
        return [key for key in self.store.keys(self._prefix) if key.endswith(".json")]

    def _key(self, step: int) -> str:
        return f"{self._prefix}{step:08d}.json"


class Upload:
    """A checkpoint on its way to the store, in a thread of whoever calls it.

    write: as `Runtime.save_checkpoint`; called at once, with `directory`, which is gone when the upload is over.

    Raises StorageError if this machine's disk has no room for it.
    """

    def __init__(self, checkpoints: Checkpoints, step: int, write: Callable[[Path], None], prefix: str, keep: int):
        self._checkpoints, self._step, self._prefix, self._keep = checkpoints, step, prefix, keep
        self._scratch = tempfile.TemporaryDirectory(prefix="compgan-checkpoint-")
        self.directory = Path(self._scratch.name)
        self.size_bytes, self.seconds = 0, 0.0
        self._started = time.monotonic()
        self._over = threading.Event()
        self._error: Exception | None = None
        try:
            write(self.directory)
        except (OSError, SafetensorError) as error:
            self._scratch.cleanup()
            raise StorageError(
                f"cannot write a checkpoint to {self.directory.parent}: {error}; make room there, or name another "
                "directory in TMPDIR"
            ) from error

    def __call__(self) -> None:
        """Put its files under the prefix, then acknowledge it."""
        try:
            files: dict[str, FileEntry] = {}
            for path in sorted(p for p in self.directory.rglob("*") if p.is_file()):
                name = path.relative_to(self.directory).as_posix()
                key = f"{self._prefix}/{name}"
                files[name] = FileEntry(key=key, size_bytes=path.stat().st_size, sha256=sha256_of(path))
                self._checkpoints.store.put_file(key, path)
            self._checkpoints.acknowledge(Checkpoint(step=self._step, files=files), self._keep)
            self.size_bytes = sum(entry.size_bytes for entry in files.values())
            self.seconds = time.monotonic() - self._started
        except Exception as error:  # whatever it is, `wait` raises it in the thread that trains
            self._error = error
        finally:
            self._scratch.cleanup()
            self._over.set()

    def wait(self) -> None:
        """Until it is acknowledged. Raises what prevented it, such as StorageError."""
        self._over.wait()
        if self._error:
            raise self._error
