"""Running the stages of a plan."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from compgan_core import stages
from compgan_core.lapse import Lapse, due
from compgan_core.stages.inputs import open_data
from compgan_core.training.runtime import Observer, Runtime
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.lease import Lease
from orchestrator.artifacts.store import Store
from orchestrator.datasets import Dataset
from orchestrator.ingest import FACES, make_faces
from orchestrator.monitor.runs import faces_key
from orchestrator.runtime.checkpoints import Checkpoints
from orchestrator.study.stage import Plan, Stage

LEASE_TTL_S = 20.0


class StageRuntime(Runtime, Protocol):
    """A Runtime that is told which stage it works for."""

    observer: Observer | None
    """Shown the networks of Comp-GAN after each step of their training."""

    def begin(self, stage: str, fingerprint: str) -> None:
        """From here on, checkpoints and reports belong to this stage."""

    def settle(self) -> None:
        """Wait until no checkpoint is on its way to the store. Raises StorageError if one did not arrive."""

    def emit(self, event: dict[str, Any]) -> None:
        """Tell whoever watches."""


def make_faces_of(
    plan: Plan, artifacts: Artifacts, tell: Callable[[dict[str, Any]], object], *, alone: bool = False
) -> None:
    """Make the tensor caches that the plan says, telling of them as a worker tells of its stages.

    alone: as `make_faces`.
    """
    supervised = all(step.stage.kind != "split" for step in plan.steps)
    for stage in (stage for stage in plan.to_run if stage.kind == FACES):
        _make_faces(stage, artifacts, tell, alone, supervised)


def _make_faces(
    stage: Stage, artifacts: Artifacts, tell: Callable[[dict[str, Any]], object], alone: bool, supervised: bool
) -> None:
    dataset, started = stage.inputs["dataset"], time.monotonic()
    assert isinstance(dataset, Dataset)
    counts = dataset.counts["expression"]
    total = sum(counts[name] for name in stage.recipe["expressions"] or counts)
    facts = {"kind": "stage", "name": stage.name, "fingerprint": stage.fingerprint}
    tell({**facts, "state": "running", "seconds": None})

    def on_face(count: int) -> None:
        tell({"kind": "progress", "stage": FACES, "step": count, "steps": total, "metrics": {}})

    make_faces(artifacts, dataset.fingerprint, stage.recipe, on_face=on_face, alone=alone, supervised=supervised)
    tell({**facts, "state": "done", "seconds": time.monotonic() - started})


@dataclass(frozen=True)
class Worker:
    """The body of every training worker: run the stages of a plan, one after another."""

    stages: tuple[Stage, ...]
    artifacts: Artifacts
    draws: bool = False
    """Whether fixed faces are drawn while Comp-GAN trains, for a time-lapse; no result depends on it."""

    def __call__(self, runtime: StageRuntime) -> None:
        for stage in self.stages:
            self._run(stage, runtime)

    def _run(self, stage: Stage, runtime: StageRuntime) -> None:
        """Compute a stage and record it, unless it is or is being recorded elsewhere. Collective."""
        home = (stage.kind, stage.fingerprint)
        lease = Lease(self.artifacts.store, *home, ttl_s=LEASE_TTL_S)
        try:
            if not self._ours(stage, lease, runtime):
                self._tell(runtime, stage, "cached")
                return
            runtime.begin(*home)
            self._tell(runtime, stage, "running")
            started = time.monotonic()
            inputs = {name: self._fetch(source) for name, source in stage.inputs.items() if isinstance(source, Stage)}
            if self.draws and stage.kind == "compgan" and runtime.rank == 0:
                runtime.observer = _Drawing(stage, inputs, self.artifacts.store, runtime)
            with tempfile.TemporaryDirectory(prefix="compgan-") as scratch:
                metrics = getattr(stages, stage.kind)(inputs, Path(scratch), runtime, **stage.arguments)
                runtime.settle()  # else one could arrive after those of this stage were removed
                if runtime.rank == 0:
                    self._publish(stage, Path(scratch), metrics, time.monotonic() - started)
            runtime.barrier()  # the next stage reads what rank 0 has just written
            self._tell(runtime, stage, "done", time.monotonic() - started)
        finally:
            lease.release()
            self.artifacts.cache.release()

    def _ours(self, stage: Stage, lease: Lease, runtime: StageRuntime) -> bool:
        """Wait until the stage is ours to compute (True), or has a record (False).

        All workers look together, time and again, so that none waits in a collective for as long as a stage may take.
        """
        while True:
            verdict = torch.zeros(1, device=runtime.device)
            if runtime.rank == 0:
                acquired = lease.try_acquire()  # before the record is read: it may be written in between
                recorded = self.artifacts.record(stage.kind, stage.fingerprint) is not None
                verdict += 2 if recorded else int(acquired)
            verdict = runtime.all_reduce_sum(verdict)
            if verdict.item():
                return verdict.item() == 1
            time.sleep(1)

    @staticmethod
    def _tell(runtime: StageRuntime, stage: Stage, state: str, seconds: float | None = None) -> None:
        if runtime.rank == 0:
            facts = {"name": stage.name, "fingerprint": stage.fingerprint, "state": state, "seconds": seconds}
            runtime.emit({"kind": "stage", **facts})

    def _fetch(self, source: Stage) -> Path:
        record = self.artifacts.record(source.kind, source.fingerprint)
        assert record is not None, f"{source.name} runs before what needs it"
        return self.artifacts.fetch(record)

    def _publish(self, stage: Stage, out: Path, metrics: dict[str, float], seconds: float) -> None:
        inputs = {name: i.fingerprint for name, i in stage.inputs.items()}
        self.artifacts.publish(
            stage.kind, stage.fingerprint, out, recipe=stage.recipe, inputs=inputs, metrics=metrics, seconds=seconds
        )
        Checkpoints(self.artifacts.store, stage.kind, stage.fingerprint).discard()


class _Drawing:
    """Draws the fixed faces, under keys by step, so that a training that is resumed neither loses nor doubles any."""

    def __init__(self, stage: Stage, inputs: Mapping[str, Path], store: Store, runtime: StageRuntime):
        data, split = open_data(inputs)
        self.lapse = Lapse(data, split, stage.arguments["size"], stage.arguments["seed"], runtime.device)
        self.fingerprint, self.store, self.runtime = stage.fingerprint, store, runtime

    def __call__(self, step: int, steps: int, networks: Mapping[str, nn.Module]) -> None:
        if due(step, steps):
            key = faces_key(self.fingerprint, step)
            self.store.put_bytes(key, self.lapse(networks))
            self.runtime.emit({"kind": "faces", "key": key, "step": step})
