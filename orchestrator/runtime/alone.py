"""The Runtime of a study that one process runs by itself, such as a trial of a sweep: plain torch and a store."""

from __future__ import annotations

import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from compgan_core.errors import CompganError
from compgan_core.training.runtime import Local, Observer
from orchestrator.artifacts.store import Store
from orchestrator.runtime.checkpoints import Checkpoints, Upload
from orchestrator.runtime.mailbox import Event

REPORT_EVERY_S = 0.25
KEEP = 2


class Left(CompganError):
    """Ended as it was asked to."""

    exit_code = 128 + signal.SIGTERM


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
        self._leaving = False
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._upload: Upload | None = None

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
        return self._leaving or time.monotonic() - self._saved_at >= self.checkpoint_every_s

    def leave(self) -> None:
        """This machine is about to be taken away: raise Left as soon as one more checkpoint is in the store."""
        self._leaving = True

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        self.settle()  # one at a time: a store that does not answer stops the training, and the disk holds one
        prefix = f"checkpoints/{self._stage}/{self._fingerprint}/{uuid.uuid4().hex[:12]}"
        self._upload = Upload(self._mine, step, write, prefix, KEEP)
        self._thread.submit(self._upload)
        self._saved_at = time.monotonic()
        if self._leaving:
            self.settle()
            raise Left(f"asked to end; {self._stage} was saved at step {step}, and the same command goes on from there")

    def settle(self) -> None:
        if self._upload:
            upload, self._upload = self._upload, None
            upload.wait()

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        with tempfile.TemporaryDirectory() as scratch:
            step = self._mine.fetch_newest(Path(scratch), self._log)
            if step is not None:
                self._log(f"continuing from the checkpoint at step {step}")
            yield None if step is None else Path(scratch)

    def _log(self, message: str) -> None:
        self.emit({"kind": "log", "stage": self._stage, "message": message})
