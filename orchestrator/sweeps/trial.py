"""The body of a trial, in the process that Tune gives it: there itself, or as a Ray Train run of several workers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from compgan_core.data.splits import FEW_SHOT_TASKS
from compgan_core.errors import CompganError
from compgan_core.probe import Probe, probe_of
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.results import table
from orchestrator.runtime.alone import AloneRuntime
from orchestrator.runtime.cluster import Workers
from orchestrator.runtime.mailbox import Event
from orchestrator.runtime.ray_train import run
from orchestrator.runtime.ray_tune import WHOLE, Tell, report
from orchestrator.study import StageRuntime, Study, Worker
from orchestrator.sweeps.ledger import Ledger, SeedResult, TrialRecord, trial_key

if TYPE_CHECKING:
    from orchestrator.sweeps.sweep import Sweep

PROBES_AT = (25, 50, 75)
"""Percent of the first seed's Comp-GAN training."""


@dataclass(frozen=True)
class RunTrial:
    """What runs a trial. configurations: those that `config["index"]` numbers; none if a searcher finds them."""

    sweep: Sweep
    artifacts: Artifacts
    configurations: tuple[Mapping[str, str], ...]
    workers: Workers
    """Of each trial."""

    def __call__(self, config: Mapping[str, Any], tell: Tell) -> None:
        """Run the seeds that are missing, and record what came of it. A failure on purpose is a result, too."""
        values, started = self.values(config), time.monotonic()
        ledger, key = Ledger(self.artifacts.store), trial_key(self.sweep.head.id, values)
        before = ledger.trial(self.sweep.head.id, key)
        record = TrialRecord(
            key=key,
            values=dict(values),
            state="finished",
            results=before.results if before else (),
            probes=before.probes if before else (),
            tries=before.tries + 1 if before else 1,
            seconds=before.seconds if before else 0.0,
        )
        tell({"kind": "begin", "values": dict(values)})
        try:
            for seed in self.sweep.seeds:
                if seed not in {result.seed for result in record.results}:
                    record = self._run_seed(record, seed, tell)
        except CompganError as error:
            record = record.model_copy(update={"state": "failed", "failure": str(error)})
        record = record.model_copy(update={"seconds": record.seconds + time.monotonic() - started})
        ledger.put_trial(self.sweep.head.id, record)
        score = self.sweep.score(record) if record.results else float("nan")
        tell({"kind": "end", "state": record.state, "score": score, "message": record.failure})
        report(score if record.results else -1e9, WHOLE, ended=1)

    def values(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """The overrides that a configuration of Tune's stands for."""
        return self.configurations[config["index"]] if self.configurations else self.sweep.space.values(config)

    def _run_seed(self, record: TrialRecord, seed: int, tell: Tell) -> TrialRecord:
        started, study = time.monotonic(), self.sweep.study(record.values, seed)
        looked_at = self.sweep.probes and seed == self.sweep.seeds[0]
        body = _Body(
            Worker(study.plan(self.artifacts).to_train, self.artifacts),
            self.sweep.study(record.values, seed, judged=True) if looked_at else None,
        )
        probes = list(record.probes)

        def on_event(event: Event) -> None:
            tell(event)
            if event["kind"] == "probe":
                probes.append(event["probe"])
                seen = {name: value for name, value in event["probe"].items() if name != "progress"}
                report(event["score"], event["probe"]["progress"], ended=0, **seen)

        tell({"kind": "seed", "seed": seed})
        store, workers = self.artifacts.store, self.workers
        if workers.num_workers == 1:
            body(AloneRuntime(store, on_event, workers.checkpoint_every_s))
        elif body.worker.stages:
            name = f"trial-{record.key[:8]}-{uuid.uuid4().hex[:8]}"
            run(body, name=name, workers=workers, store=store, on_event=on_event)
        result = seed_result(study, self.artifacts, time.monotonic() - started)
        return record.model_copy(update={"results": (*record.results, result), "probes": tuple(probes)})


@dataclass(frozen=True)
class _Body:
    """What the workers of a trial do for one seed."""

    worker: Worker
    looked_at: Study | None
    """The study with its judge, if its Comp-GAN is looked at while it trains."""

    def __call__(self, runtime: StageRuntime) -> None:
        if self.looked_at and runtime.rank == 0:
            runtime.observer = _Observer(self.worker.artifacts, self.looked_at, runtime)
        self.worker(runtime)


def seed_result(study: Study, artifacts: Artifacts, seconds: float) -> SeedResult:
    """What the records of a study say."""
    rows = table(study.titles, study.records(artifacts), study.measure)
    return SeedResult(
        seed=study.recipe.seed,
        metrics={row.variant: row.means for row in rows},
        stages={stage.name: stage.fingerprint for stage in study.stages},
        seconds=seconds,
    )


class _Observer:
    """Looks at a Comp-GAN while it trains, and tells of it."""

    def __init__(self, artifacts: Artifacts, study: Study, runtime: StageRuntime):
        self.artifacts, self.study, self.runtime = artifacts, study, runtime

    def __call__(self, step: int, steps: int, networks: Mapping[str, nn.Module]) -> None:
        due = next((percent for percent in PROBES_AT if step == max(1, steps * percent // 100)), None)
        if due is None:
            return
        seen = self._probe(networks)
        score = seen.get("probe_edits_alone", seen["probe_expression"])
        self.runtime.emit({"kind": "probe", "score": score, "probe": {"progress": float(due), **seen}})

    @cached_property
    def _probe(self) -> Probe:
        recipe, stages = self.study.recipe, {stage.name: stage for stage in self.study.stages}
        records = [
            self.artifacts.require(stages[name].kind, stages[name].fingerprint)
            for name in ("faces", "split", "classifier", "judge")
        ]
        return probe_of(
            {record.stage: self.artifacts.fetch(record) for record in records},
            self.runtime.device,
            network=recipe.network,
            judge=recipe.judge,
            size=recipe.faces.size,
            shots_per_category=recipe.shots if recipe.split.task in FEW_SHOT_TASKS else 0,
            shots_per=recipe.shots_per,
            draw=0,
            seed=recipe.seed,
        )
