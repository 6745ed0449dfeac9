"""The Runtime of a Ray Train worker, and `run`, which starts workers, watches them, and says why they failed.

A failure on purpose (any CompganError) ends the run at once and reaches the caller as itself: another try would end the
same way. Whatever else kills a worker is taken for an accident, and the workers restart from the last checkpoint.
"""

from __future__ import annotations

import posixpath
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
from ray.exceptions import ActorDiedError
from ray.train import (
    CheckpointConfig,
    CheckpointConsistencyMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, distributed, nn

from compgan_core import errors
from compgan_core.errors import CapacityError, CompganError, StorageError
from compgan_core.training.runtime import Engine
from orchestrator.artifacts.artifacts import FileEntry, sha256_of
from orchestrator.artifacts.store import Store
from orchestrator.runtime.checkpoints import Checkpoint, Checkpoints
from orchestrator.runtime.cluster import Resources, Workers, arithmetic, resources_per_worker
from orchestrator.runtime.deepspeed_engine import DeepSpeedEngine
from orchestrator.runtime.mailbox import Event, Mailbox

RUNS = "train"  # where in the store Ray Train keeps its runs, a directory each
REPORT_EVERY_S = 0.25
POLL_S = 0.2
STOP_TIMEOUT_S = 20.0


class RayRuntime:
    """A Runtime inside a Train worker. `begin` says which stage its checkpoints and reports belong to."""

    def __init__(self, workers: Workers, store: Store, mailbox: Any):
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = get_device()
        self.store = store
        self._workers, self._mailbox = workers, mailbox
        self._reported_at = float("-inf")
        self._answered_preemption: object = None

    def begin(self, stage: str, fingerprint: str) -> None:
        """From here on this stage is meant."""
        self._stage, self._fingerprint = stage, fingerprint
        self._checkpoints = Checkpoints(self.store, stage, fingerprint)
        self._saved_at = time.monotonic()

    def emit(self, event: Event) -> None:
        """Send an event to the driver, without waiting. Events of one worker arrive in order."""
        self._mailbox.push.remote(event)

    def log(self, message: str) -> None:
        self.emit({"kind": "log", "stage": self._stage, "message": message})

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

    def checkpoint_due(self, step: int) -> bool:
        """By steps or seconds; and once when a node is about to be taken away."""
        if _preemption() is not self._answered_preemption:
            return True
        if self._workers.checkpoint_every_steps:
            return step % self._workers.checkpoint_every_steps == 0
        return time.monotonic() - self._saved_at >= self._workers.checkpoint_every_s

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """On return the checkpoint is in the store, committed by Ray Train, and acknowledged."""
        self._answered_preemption = _preemption()
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


def run(
    body: Callable[[RayRuntime], None],
    *,
    name: str,
    workers: Workers,
    store: Store,
    on_event: Callable[[Event], object] = lambda event: None,
) -> None:
    """Run `body(runtime)` on every worker, and return when all have returned. Ray must be initialised.

    body: picklable. It is called again after a restart, and continues from `runtime.latest_checkpoint()`.
    name: of the run, in the dashboard and in the store; two runs of one name must not overlap.
    on_event: called here, in order, with each event of the workers: progress, log, and whatever `body` emits.

    Raises:
        CapacityError: the workers do not fit, or none could start within `start_timeout_s`.
        StorageError: the store failed.
        CompganError: what a worker raised on purpose, as it was; or the last accident when too many happened.
    """
    resources = resources_per_worker(workers)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here).remote()
    # A snapshot would make Train resume by its own book, and refuse if one of the directories in it is gone.
    store.delete(f"{RUNS}/{name}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}")
    _Run(_trainer(body, name, workers, resources, store, mailbox), workers, resources, mailbox, on_event).watch()


def _trainer(
    body: Callable[[RayRuntime], None], name: str, workers: Workers, resources: Resources, store: Store, mailbox: Any
) -> TorchTrainer:
    path, filesystem = store.ray_storage()
    return TorchTrainer(
        _work,
        train_loop_config={"body": body, "workers": workers, "store": store, "mailbox": mailbox},
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        torch_config=TorchConfig(timeout_s=int(workers.collective_timeout_s)),
        run_config=RunConfig(
            name=name,
            storage_path=posixpath.join(path, RUNS),
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=workers.keep_checkpoints),
            callbacks=[_StateReporter(mailbox)],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker. A CompganError is told to the driver, not raised: Train would try again."""
    runtime = RayRuntime(config["workers"], config["store"], config["mailbox"])
    try:
        config["body"](runtime)
        runtime.barrier()  # else gloo aborts the worker that leaves while another one is still talking to it
        last: Event = {"kind": "returned"}
    except CompganError as error:
        last = {"kind": "failed", "type": _user_type(error).__name__, "message": str(error), "rank": runtime.rank}
        last["traceback"] = traceback.format_exc()
    ray.get(config["mailbox"].push.remote(last))  # all that was sent before has then arrived


class _StateReporter(ControllerCallback):
    """In Train's controller: tells the driver whom to stop, and what state the run is in."""

    def __init__(self, mailbox: Any):
        self._mailbox = mailbox

    def after_controller_start(self, train_run_context: object) -> None:
        self._mailbox.push.remote({"kind": "controller", "actor": ray.get_runtime_context().current_actor})

    def after_controller_state_update(self, previous_state: object, current_state: Any) -> None:
        error = getattr(current_state, "training_failed_error", None)
        state = type(current_state).__name__
        self._mailbox.push.remote({"kind": "state", "state": state, "error": str(error) if error else ""})


class _Run:
    """A run under way: Train in a thread, and the caller's thread to watch it, so that Ctrl-C reaches the caller."""

    def __init__(self, trainer: TorchTrainer, workers: Workers, resources: Resources, mailbox: Any, on_event: Callable):
        self._trainer, self._workers, self._resources = trainer, workers, resources
        self._mailbox, self._on_event = mailbox, on_event
        self._controller: Any = None
        self._error: BaseException | None = None
        self._waiting_since: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._fit, name="ray train", daemon=True)

    def watch(self) -> None:
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._thread.join(POLL_S)
                self._take_events()
                self._check_start()
        finally:
            self._stop()
        if self._error:
            raise _explained(self._error) from self._error

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # of another thread: raised by `watch`
            self._error = error

    def _take_events(self) -> None:
        for event in ray.get(self._mailbox.take.remote()):
            if event["kind"] == "failed":
                error = getattr(errors, event["type"])(event["message"])
                error.add_note(f"on rank {event['rank']}:\n{event['traceback']}")
                raise error
            if event["kind"] == "controller":
                self._controller = event["actor"]
            elif event["kind"] == "state":
                self._follow(event)
            elif event["kind"] != "returned":
                self._on_event(event)

    def _follow(self, event: Event) -> None:
        if event["state"] == "RunningState":
            self._waiting_since = None
        elif event["state"] in ("SchedulingState", "ReschedulingState", "RestartingState"):
            self._waiting_since = self._waiting_since or time.monotonic()
        if event["state"] == "RestartingState":
            self._on_event({"kind": "log", "message": f"restarting from the last checkpoint: {event['error']}"})

    def _check_start(self) -> None:
        timeout_s = self._workers.start_timeout_s
        if self._waiting_since and time.monotonic() - self._waiting_since > timeout_s:
            asked = arithmetic(self._workers.num_workers, self._resources)
            raise CapacityError(f"no worker has started within {timeout_s:g} seconds: {asked}, and it may be in use")

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._controller:
                self._controller.abort.remote()
                self._thread.join(STOP_TIMEOUT_S)
                ray.kill(self._controller)  # it cannot listen while it waits for resources
            else:
                self._thread.join(POLL_S)
                events = ray.get(self._mailbox.take.remote())
                self._controller = next((e["actor"] for e in events if e["kind"] == "controller"), None)
        ray.kill(self._mailbox)


def _explained(error: BaseException) -> CompganError:
    """One sentence about why Train gave up."""
    if isinstance(error, ray.train.WorkerGroupError):
        rank, cause = min(error.worker_failures.items())
        return CompganError(f"worker {rank} failed once too often, last with {str(cause).strip().splitlines()[-1]}")
    reason = getattr(error, "controller_failure", error)
    if isinstance(reason, InsufficientClusterResourcesError):
        return CapacityError(str(reason).splitlines()[1])
    if isinstance(error, ActorDiedError):  # the storage is the one thing that Train's controller needs to start
        return StorageError(f"Ray Train cannot use the store: {str(error).strip().splitlines()[-1]}")
    return CompganError(f"Ray Train failed: {str(reason).strip().splitlines()[-1]}")


def _user_type(error: CompganError) -> type:
    """The nearest class that the driver can make again from a message alone."""
    return next(c for c in type(error).__mro__ if c.__module__ == errors.__name__)


def _preemption() -> object:
    """What Train has told this worker about a node that will be taken away; the public call is a barrier."""
    return get_train_context().preemption_context.preemption_info
