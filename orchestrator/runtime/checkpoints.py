"""Which checkpoints of a stage exist, for whoever continues it: this run, another driver, another number of workers.

    checkpoints/<stage>/<fingerprint>/<step>.json    written after Ray Train has committed the files it names

A checkpoint exists only if this small object does. So a worker that is killed while it saves leaves litter, never half
a checkpoint, and Ray Train's own memory of a run, which neither an upgrade nor a deleted directory survives, is not
needed to continue it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

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
