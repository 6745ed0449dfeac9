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
from pathlib import Path
from typing import Any, Literal

import ray.train
import ray.train.collective
import torch
from ray.train import CheckpointConsistencyMode
from ray.train.torch import get_device
from ray.train.v2._internal.execution.context import get_train_context
from torch import Tensor, distributed, nn

from compgan_core.errors import StorageError
from compgan_core.training.runtime import Engine, Observer
from orchestrator.artifacts.artifacts import FileEntry, sha256_of
from orchestrator.artifacts.store import Store
from orchestrator.runtime.checkpoints import Checkpoint, Checkpoints
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
        self._stage = ""
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
        if _preemption() is not self._answered_preemption:
            return True
        if self._workers.checkpoint_every_steps:
            return step % self._workers.checkpoint_every_steps == 0
        return time.monotonic() - self._saved_at >= self._workers.checkpoint_every_s

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """On return the checkpoint is in the store, committed by Ray Train, and acknowledged."""
        self._answered_preemption, started = _preemption(), time.monotonic()
        name = f"{self._stage}-{self._fingerprint[:12]}-{step:08d}"
        with tempfile.TemporaryDirectory() as directory:
            files: dict[str, FileEntry] = {}
            mine = None
            if self.rank == 0:
                write(Path(directory))
                mine = ray.train.Checkpoint.from_directory(directory)
            upload = _Upload(self.store, files)
            ray.train.report({"step": step}, checkpoint=mine, checkpoint_dir_name=name, checkpoint_upload_fn=upload)
        if self.rank == 0:
            self._wait_for_commit(name)
            self._checkpoints.acknowledge(Checkpoint(step=step, files=files), self._workers.keep_checkpoints)
        self.barrier()
        self._saved_at = time.monotonic()
        if self.rank == 0:
            size, seconds = sum(entry.size_bytes for entry in files.values()), self._saved_at - started
            saved = {"stage": self._stage, "step": step, "size_bytes": size, "seconds": seconds}
            self.emit({"kind": "checkpoint", **saved})

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

    def _wait_for_commit(self, name: str) -> None:
        committed = ray.train.get_all_reported_checkpoints(
            consistency_mode=CheckpointConsistencyMode.COMMITTED, timeout_s=self._workers.collective_timeout_s
        )
        if not any(posixpath.basename(reported.checkpoint.path) == name for reported in committed):
            raise StorageError(f"Ray Train did not commit {name} within {self._workers.collective_timeout_s:g} seconds")


class _Upload:
    """Puts a checkpoint's files where Ray Train would, through our store, which retries; and remembers what it put."""

    def __init__(self, store: Store, files: dict[str, FileEntry]):
        self.store, self.files = store, files

    def __call__(self, checkpoint: Any, name: str) -> Any:
        storage = ray.train.get_context().get_storage()
        run = posixpath.basename(storage.experiment_fs_path)
        for path in sorted(p for p in Path(checkpoint.path).rglob("*") if p.is_file()):
            file = path.relative_to(checkpoint.path).as_posix()
            key = f"{RUNS}/{run}/{name}/{file}"
            self.files[file] = FileEntry(key=key, size_bytes=path.stat().st_size, sha256=sha256_of(path))
            self.store.put_file(key, path)
        return ray.train.Checkpoint(posixpath.join(storage.experiment_fs_path, name), storage.storage_filesystem)


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
