"""Run a body on Ray Train workers: start them, pass on what they tell, and say why they failed.

A failure on purpose (any CompganError) ends the run at once and reaches the caller as itself: another try would end the
same way. Whatever else kills a worker is taken for an accident, and the workers restart from the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import posixpath
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, COLLECTIVE_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    ResizingState,
    RestartingState,
    RunningState,
)
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from compgan_core.errors import CapacityError, CompganError, DivergenceError, StorageError, retold, told
from orchestrator.artifacts.store import Store
from orchestrator.runtime.cluster import Resources, Workers, alive_nodes, arithmetic, free_orphans, resources_per_worker
from orchestrator.runtime.mailbox import Event, Mailbox
from orchestrator.runtime.ray_runtime import RUNS, RayRuntime, Warnings

POLL_S = 0.2
STOP_TIMEOUT_S = 10.0


def run(
    body: Callable[[RayRuntime], None],
    *,
    name: str,
    workers: Workers,
    store: Store,
    on_event: Callable[[Event], object] = lambda event: None,
    run_id: str = "",
    task: str = "",
) -> None:
    """Run `body(runtime)` on every worker, and return when all have returned. Ray must be initialised.

    body: picklable. It is called again after a restart, and continues from `runtime.latest_checkpoint()`.
    name: of the run, in the dashboard and in the store, where each attempt adds a suffix of its own.
    on_event: called here, in order, with each event of the workers: progress, log, and whatever `body` emits.
    run_id, task: labels of its metrics; by default the name, and none.

    Raises:
        CapacityError: the workers do not fit, or none could start within `start_timeout_s`.
        StorageError: the store failed.
        CompganError: what a worker raised on purpose, as it was; or the last accident when too many happened.
    """
    resources = resources_per_worker(workers)
    os.environ[COLLECTIVE_TIMEOUT_S_ENV_VAR] = str(workers.collective_timeout_s)  # Train passes it on to its actors
    for tries_left in range(workers.max_failures, -1, -1):
        # A name of its own, or Train would resume by its own book, and refuse if a checkpoint in it is gone: the
        # controller of a driver that was killed may write that book once more after the next driver has begun.
        attempt = f"{name}-{uuid.uuid4().hex[:8]}"
        mailbox = _mailbox()
        config = {"body": body, "workers": workers, "store": store, "mailbox": mailbox}
        config |= {"run": run_id or name, "task": task}
        train = _Run(_trainer(config, attempt, workers, resources, store), mailbox, on_event)
        error = train.watch()
        store.delete(f"{RUNS}/{attempt}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}")
        if error is None:
            return
        if not (tries_left and isinstance(getattr(error, "controller_failure", None), RayActorError)):
            raise _explained(error, train.silent) from error
        free_orphans()
        on_event({"kind": "log", "message": "starting again, because a worker died before Ray Train could watch it"})


def _mailbox() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here).remote()


class _Trainer(TorchTrainer):
    """Without two processes that would do nothing: a manager of Ray Data's data sets, of which there are none, and a
    cleaner of what a dead controller had reserved, which is `free_orphans`'. They take a fifth of a short run."""

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, idle)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        config, workers = self.scaling_config, self.train_loop_config["workers"]
        if config.elasticity_enabled:
            options["scaling_policy"] = _Sizes(config, (*workers.fewer, workers.num_workers))
        return super()._initialize_and_run_controller(**options)


class _Sizes(ElasticScalingPolicy):
    """As many workers as there is room for, but only numbers over which batches divide."""

    def __init__(self, scaling_config: ScalingConfig, sizes: tuple[int, ...]):
        super().__init__(scaling_config)
        self._sizes = sizes

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= room), default=0)


def _trainer(config: dict[str, Any], name: str, workers: Workers, resources: Resources, store: Store) -> TorchTrainer:
    path, filesystem = store.ray_storage()
    return _Trainer(
        _work,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=(min(workers.fewer), workers.num_workers) if workers.fewer else workers.num_workers,
            elastic_resize_monitor_interval_s=workers.checkpoint_every_s,  # what a resize costs is no more than that
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        torch_config=TorchConfig(timeout_s=int(workers.collective_timeout_s)),
        run_config=RunConfig(
            name=name,
            storage_path=posixpath.join(path, RUNS),
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=None),  # ours goes by stage; Train trips over what is gone
            callbacks=[_InController(workers, resources, config["mailbox"])],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker. A CompganError is told to the driver, not raised: Train would try again."""
    runtime = RayRuntime(*(config[name] for name in ("workers", "store", "mailbox", "run", "task")))
    logging.getLogger().addHandler(Warnings(runtime))
    logging.captureWarnings(True)
    try:
        config["body"](runtime)
        runtime.settle()
        runtime.barrier()  # else gloo aborts the worker that leaves while another one is still talking to it
        last: Event = {"kind": "returned"}
    except CompganError as error:
        if isinstance(error, DivergenceError):
            runtime.exporter.count("compgan_nonfinite_total")
        last = {"kind": "failed", "error": told(error), "rank": runtime.rank}
        last["traceback"] = traceback.format_exc()
    except Exception:
        ray.get(config["mailbox"].push.remote({"kind": "gave up", "rank": runtime.rank, "step": runtime.step}))
        raise
    ray.get(config["mailbox"].push.remote(last))  # all that was sent before has then arrived


class _InController(ControllerCallback):
    """What can only be seen, and only be ended in good order, inside Train's controller."""

    def __init__(self, workers: Workers, resources: Resources, mailbox: Any):
        self._workers, self._resources, self._mailbox = workers, resources, mailbox
        self._waiting_since: float | None = None

    def after_controller_start(self, train_run_context: object) -> None:
        self._mailbox.push.remote({"kind": "controller", "actor": ray.get_runtime_context().current_actor})

    def after_controller_state_update(self, previous_state: object, current_state: object) -> None:
        if isinstance(current_state, RunningState):
            self._waiting_since = None
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        if isinstance(current_state, ResizingState):
            count = current_state.scaling_decision.num_workers
            message = f"going on from the last checkpoint with another number of workers: {count}"
            self._mailbox.push.remote({"kind": "restarting", "message": message})
        if isinstance(current_state, RestartingState) and not isinstance(previous_state, RestartingState):
            message = f"restarting from the last checkpoint: {_accident(current_state.training_failed_error)}"
            self._mailbox.push.remote({"kind": "restarting", "message": message})
        timeout_s = self._workers.start_timeout_s
        waits = isinstance(current_state, (InitializingState, RestartingState, ReschedulingState))
        if waits and time.monotonic() - self._waiting_since >= timeout_s:
            asked = arithmetic(self._workers, self._resources, [node["Resources"] for node in alive_nodes()])
            raise CapacityError(f"no worker could start within {timeout_s:g} seconds: {asked}, and others may use it")


class _Run:
    """A run under way: Train in a thread, so that Ctrl-C reaches the caller, whose thread passes the events on."""

    def __init__(self, trainer: TorchTrainer, mailbox: Any, on_event: Callable[[Event], object]):
        self._trainer, self._mailbox, self._on_event = trainer, mailbox, on_event
        self._controller: Any = None
        self._error: Exception | None = None
        self._ranks: set[int] = set()
        self._gave_up: dict[int, int] = {}
        self._thread = threading.Thread(target=self._fit, name="ray train", daemon=True)

    def watch(self) -> Exception | None:
        """Until the run has ended; what Train raised. Raises what a worker raised on purpose."""
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._thread.join(POLL_S)
                for event in self._events():
                    self._pass_on(event)
        finally:
            self._stop()
        return self._error

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # whatever it is, `watch` raises it in the caller's thread
            self._error = error

    def _events(self) -> list[Event]:
        events = ray.get(self._mailbox.take.remote())
        self._controller = next((e["actor"] for e in events if e["kind"] == "controller"), self._controller)
        return [event for event in events if event["kind"] not in ("controller", "returned")]

    def _pass_on(self, event: Event) -> None:
        if event["kind"] == "failed":
            error = retold(*event["error"])
            error.add_note(f"on rank {event['rank']}:\n{event['traceback']}")
            raise error
        if event["kind"] == "gave up":
            self._gave_up[event["rank"]] = event["step"]
            return
        if event["kind"] == "worker":
            self._ranks.add(event["rank"])
        if event["kind"] == "restarting":
            event = {"kind": "log", "message": event["message"] + self.silent}
            self._ranks, self._gave_up = set(), {}
        self._on_event(event)

    @property
    def silent(self) -> str:
        """Which rank hung or died, as it looks to those that waited for it until they gave up; empty if none did."""
        silent = sorted(self._ranks - set(self._gave_up))
        if not silent or not self._gave_up:
            return ""
        return f"; silent since step {min(self._gave_up.values())}: rank {', '.join(map(str, silent))}"

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._thread.is_alive() and not self._controller and time.monotonic() < deadline:
            self._thread.join(POLL_S)
            self._events()
        if self._thread.is_alive() and self._controller:
            self._controller.abort.remote()
            self._thread.join(STOP_TIMEOUT_S)
            ray.kill(self._controller)  # no error if it is gone; it is deaf while it waits for resources
            self._thread.join(STOP_TIMEOUT_S)  # a thread that still asks Ray when the process ends would crash it
        ray.kill(self._mailbox)


def _explained(error: BaseException, silent: str) -> CompganError:
    """One sentence about why Train gave up."""
    if isinstance(error, ray.train.WorkerGroupError):
        return CompganError(f"the workers failed once too often: {_accident(error)}{silent}")
    reason = getattr(error, "controller_failure", error)
    if isinstance(reason, CompganError):
        return reason
    if isinstance(reason, InsufficientClusterResourcesError):
        return CapacityError(str(reason).splitlines()[1])
    last_line = _lines(reason)[-1]
    if "in its creation task" in str(reason) and "ModuleNotFoundError" not in last_line:
        return StorageError(f"Ray Train cannot use the store: {last_line}")  # all that its controller needs to start
    return CompganError(f"Ray Train failed: {last_line}")


def _accident(error: Any) -> str:
    if not isinstance(error, ray.train.WorkerGroupError):
        return _lines(error)[0]
    failures = sorted(error.worker_failures.items())
    # When a worker dies, the others fail because of it.
    rank, cause = next((f for f in failures if isinstance(f[1], RayActorError)), failures[0])
    if isinstance(cause, RayActorError):
        return f"worker {rank} died, which happens when memory runs out or its node is lost"
    return f"worker {rank} raised {type(cause).__name__}: {_lines(cause)[0]}"


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
