"""The Runtime of a study that one process runs by itself, such as a trial of a sweep: plain torch and a store."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from compgan_core.training.runtime import Local, Observer
from orchestrator.artifacts.artifacts import FileEntry, sha256_of
from orchestrator.artifacts.store import Store
from orchestrator.runtime.checkpoints import Checkpoint, Checkpoints
from orchestrator.runtime.mailbox import Event

REPORT_EVERY_S = 0.25
KEEP = 2


class AloneRuntime(Local):
    """Checkpoints go to the store under their stage's fingerprint, where a run of any kind finds them."""

    def __init__(
        self,
        store: Store,
        emit: Callable[[Event], None],
        checkpoint_every_s: float = 60.0,
        device: str | torch.device | None = None,
    ):
        super().__init__(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.store, self.emit, self.checkpoint_every_s = store, emit, checkpoint_every_s
        self.observer: Observer | None = None
        self._reported_at = float("-inf")

    def observe(self, step: int, steps: int, networks: Mapping[str, nn.Module]) -> None:
        if self.observer:
            self.observer(step, steps, networks)

    def begin(self, stage: str, fingerprint: str) -> None:
        """From here on this stage is meant."""
        self._stage, self._fingerprint = stage, fingerprint
        self._mine = Checkpoints(self.store, stage, fingerprint)
        self._saved_at = time.monotonic()

    def report(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if step == steps or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            progress = {"stage": self._stage, "step": step, "steps": steps, "metrics": dict(metrics)}
            self.emit({"kind": "progress", **progress})

    def checkpoint_due(self, step: int) -> bool:
        return time.monotonic() - self._saved_at >= self.checkpoint_every_s

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        prefix = f"checkpoints/{self._stage}/{self._fingerprint}/{uuid.uuid4().hex[:12]}"
        files: dict[str, FileEntry] = {}
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch))
            for name in os.listdir(scratch):
                path, key = Path(scratch) / name, f"{prefix}/{name}"
                files[name] = FileEntry(key=key, size_bytes=path.stat().st_size, sha256=sha256_of(path))
                self.store.put_file(key, path)
        self._mine.acknowledge(Checkpoint(step=step, files=files), KEEP)
        self._saved_at = time.monotonic()

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        with tempfile.TemporaryDirectory() as scratch:
            step = self._mine.fetch_newest(Path(scratch), self._log)
            if step is not None:
                self._log(f"continuing from the checkpoint at step {step}")
            yield None if step is None else Path(scratch)

    def _log(self, message: str) -> None:
        self.emit({"kind": "log", "stage": self._stage, "message": message})
