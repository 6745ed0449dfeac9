"""The Runtime of a Ray Train worker."""

from __future__ import annotations

import logging
import os
import posixpath
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray.train
import ray.train.collective
import torch
from ray.train import CheckpointUploadMode
from ray.train.torch import get_device
from ray.train.v2._internal.execution.context import get_train_context
from torch import Tensor, distributed, nn

from compgan_core.training.runtime import Engine, Observer
from orchestrator.artifacts.store import Store
from orchestrator.runtime.checkpoints import Checkpoints, Upload
from orchestrator.runtime.cluster import Workers
from orchestrator.runtime.deepspeed_engine import DeepSpeedEngine
from orchestrator.runtime.mailbox import Event
from orchestrator.runtime.metrics import Exporter

RUNS = "train"  # where in the store Ray Train keeps its runs, a directory each
REPORT_EVERY_S = 0.25


class RayRuntime:
    """A Runtime inside a Train worker. `begin` says which stage its checkpoints and reports belong to."""

    def __init__(self, workers: Workers, store: Store, mailbox: Any, run: str, task: str):
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = get_device()
        self.recompute = workers.recompute
        self.store = store
        self._workers, self._mailbox = workers, mailbox
        self.observer: Observer | None = None
        self._reported_at = float("-inf")
        self._answered_preemption: object = None
        self._upload: Upload | None = None
        self._stage = ""
        self.step = 0
        self.exporter = Exporter(run, task, self.rank)
        here = {"host": socket.gethostname(), "pid": os.getpid(), "device": _name(self.device)}
        self.emit({"kind": "worker", "rank": self.rank, **here})

    def begin(self, stage: str, fingerprint: str) -> None:
        """From here on this stage is meant."""
        self._stage, self._fingerprint = stage, fingerprint
        self.exporter.begin(stage)
        self._checkpoints = Checkpoints(self.store, stage, fingerprint)
        self._saved_at = time.monotonic()

    def emit(self, event: Event) -> None:
        """Send an event to the driver, without waiting. Events of one worker arrive in order."""
        self.exporter.see(event)
        self._mailbox.push.remote(event)

    def log(self, message: str) -> None:
        self.tell("log", message)

    def tell(self, kind: Literal["log", "warning"], message: str) -> None:
        """Both end up in the log of the run; warnings are not shown by who drives it."""
        self.emit({"kind": kind, "stage": self._stage, "rank": self.rank, "message": message})

    def engine(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Engine:
        return DeepSpeedEngine(module, optimizer, max_grad_norm, self._workers.zero_stage)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def barrier(self) -> None:
        distributed.barrier()

    def report(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """At most four a second reach the driver, and the last step always does."""
        now = time.monotonic()
        if step == steps or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            progress = {"stage": self._stage, "step": step, "steps": steps, "metrics": dict(metrics)}
            self.emit({"kind": "progress", **progress})

    def observe(self, step: int, steps: int, networks: Mapping[str, nn.Module]) -> None:
        if self.observer:
            self.observer(step, steps, networks)

    def checkpoint_due(self, step: int) -> bool:
        """By steps or seconds; and once when a node is about to be taken away."""
        self.step = step - 1  # asked in the midst of it
        if _preemption() is not self._answered_preemption:
            return True
        if self._workers.checkpoint_every_steps:
            return step % self._workers.checkpoint_every_steps == 0
        return time.monotonic() - self._saved_at >= self._workers.checkpoint_every_s

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """On return it is written here, and on its way to the store; in it, if a node is about to be taken away."""
        self.settle()  # one at a time: a store that does not answer stops the training, and the disk holds one
        name = f"{self._stage}-{self._fingerprint[:12]}-{step:08d}"
        mine = send = None
        if self.rank == 0:
            run = posixpath.basename(ray.train.get_context().get_storage().experiment_fs_path)
            prefix = f"{RUNS}/{run}/{name}"
            self._upload = Upload(self._checkpoints, step, write, prefix, self._workers.keep_checkpoints)
            mine = ray.train.Checkpoint.from_directory(self._upload.directory)
            send = partial(self._send, step, self._upload)
        ray.train.report(
            {"step": step},
            checkpoint=mine,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=send,
        )
        preemption = _preemption()
        if preemption is not self._answered_preemption:
            self._answered_preemption = preemption
            self.settle()
        self._saved_at = time.monotonic()

    def settle(self) -> None:
        """Wait until no checkpoint is on its way. Raises StorageError if one did not arrive."""
        if self._upload:
            upload, self._upload = self._upload, None
            upload.wait()

    def _send(self, step: int, upload: Upload, checkpoint: Any, name: str) -> Any:
        """What Ray Train calls, in a thread of its own, to have the files of a checkpoint where it would put them."""
        upload()
        if upload.seconds:
            saved = {"stage": self._stage, "step": step, "size_bytes": upload.size_bytes, "seconds": upload.seconds}
            self.emit({"kind": "checkpoint", **saved})
        storage = ray.train.get_context().get_storage()
        return ray.train.Checkpoint(posixpath.join(storage.experiment_fs_path, name), storage.storage_filesystem)

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """A private copy of the newest checkpoint that is whole, the same on every worker."""
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            step = self._checkpoints.fetch_newest(directory, self.log) if self.rank == 0 else None
            step = ray.train.collective.broadcast_from_rank_zero(step)
            if step is not None and self.rank > 0:
                self._checkpoints.fetch(step, directory)
            if step is not None and self.rank == 0:
                self.log(f"continuing from the checkpoint at step {step}")
            yield None if step is None else directory


class Warnings(logging.Handler):
    """Sends what libraries warn of on a worker to the driver, whose log is the one that people read."""

    def __init__(self, runtime: RayRuntime):
        super().__init__(logging.WARNING)
        self.runtime = runtime

    def emit(self, record: logging.LogRecord) -> None:
        self.runtime.tell("warning", f"{record.levelname.lower()} of {record.name}: {record.getMessage()}")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _preemption() -> object:
    """What Train has told this worker about a node that will be taken away; the public call is a barrier."""
    return get_train_context().preemption_context.preemption_info
