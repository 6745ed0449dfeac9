"""A sweep, top to bottom: what its trials share runs first and once, then the trials, then one look at the test rows.

A trial is a configuration. It runs its seeds one after another, each a study whose last stages read validation rows.
Stages have records, so a trial finds what another one, or an earlier command, has made. The ledger remembers trials.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any, Literal

from compgan_core.errors import ConfigurationError, did_you_mean
from compgan_core.recipe import make_recipe
from compgan_core.variants import VARIANTS
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.datasets import Dataset, find_dataset
from orchestrator.ingest import FACES, make_faces
from orchestrator.results import COLUMNS
from orchestrator.runtime.alone import AloneRuntime
from orchestrator.runtime.cluster import Workers
from orchestrator.runtime.mailbox import Event
from orchestrator.runtime.ray_train import run
from orchestrator.runtime.ray_tune import Placement, Tell, Trials, numbered, run_apart, run_trials
from orchestrator.study import Beside, Measure, SharedPlan, Stage, Study, Worker, study_of
from orchestrator.study.shared import in_order
from orchestrator.sweeps.dimensions import Values, canonical
from orchestrator.sweeps.ledger import Base, Ledger, SweepHead, TestTable, TrialRecord, trial_key
from orchestrator.sweeps.space import COUNT, COUNTS, Space, parse
from orchestrator.sweeps.tracking import Track
from orchestrator.sweeps.trial import RunTrial, seed_result

MAX_TRIES = 2
"""Commands that may try a failed configuration."""

OnEvent = Callable[[Event], object]


@dataclass(frozen=True)
class Sweep:
    """What all trials of a command have in common. Picklable."""

    head: SweepHead
    dataset: Dataset
    space: Space
    seeds: tuple[int, ...]
    probes: bool = False
    """Whether trials are looked at while they train, for early stopping."""

    def study(self, values: Mapping[str, str], seed: int, measure: Measure = "validate", judged: bool = False) -> Study:
        """The study of one configuration and seed; judged: with what the judge reads in edited faces, and the judge."""
        base = self.head.base
        overrides = {**base.overrides, **values}
        beside: tuple[Beside, ...] = ("quality",) if judged else ()
        return study_of(
            self.dataset, base.preset, base.task, base.shots, seed, overrides, measure=measure, beside=beside
        )

    def score(self, record: TrialRecord) -> float:
        """What configurations are compared by: the measure of the swept variant, over the seeds there are."""
        variant = self.head.base.variants[-1]
        return mean(result.metrics[variant][self.head.metric] for result in record.results)

    @property
    def baseline(self) -> Values:
        return baseline_of(self.head)

    def configurations(self, settings: Trials, samples: int) -> list[Values]:
        """Those to run: a grid, or the baseline and `samples` others; for optuna, which finds its own, random ones in
        their place, that cost the same."""
        if settings.search == "grid":
            return self.space.grid()
        drawn = [self.space.sample(settings.seed, i) for i in range(samples)]
        return [self.baseline, *(values for values in drawn if values != self.baseline)]


def baseline_of(head: SweepHead) -> Values:
    """The configuration that others are compared with: the recipe's own values, and no synthesized images."""
    base = head.base
    recipe = make_recipe(base.preset, base.task, overrides=base.overrides).model_dump(mode="json", by_alias=True)
    return {field: "0" if field == COUNT else canonical(_value(recipe, field)) for field in head.fields}


def make_sweep(
    artifacts: Artifacts,
    *,
    data: str,
    task: str,
    preset: str,
    shots: int,
    overrides: Mapping[str, str] = MappingProxyType({}),
    variant: str = "compgan",
    metric: str = "",
    over: Sequence[str] = (),
    named: str | None = None,
    allow: bool = False,
    seeds: int = 3,
    probes: bool = False,
) -> Sweep:
    """The sweep of a command, begun in the ledger if it is new. Whatever can be wrong with it is found here."""
    if variant not in VARIANTS:
        raise ConfigurationError(f"there is no variant {variant!r}: {did_you_mean(variant, list(VARIANTS))}")
    space = parse(over, named, allow, preset=preset, task=task, settings=overrides)
    variants = tuple(dict.fromkeys(("plain", variant)))
    settings = {**overrides, "variants": '["' + '","'.join(variants) + '"]'}
    if COUNT in space.fields:  # of one pool every count is a prefix, those of a wider command, too
        settings.setdefault("synth.pool", str(COUNTS[-1]))
    metric = metric or ("pooled" if task == "ER-SS" else "novel_only")
    if metric not in COLUMNS:
        raise ConfigurationError(f"no stage reports {metric!r}: {did_you_mean(metric, list(COLUMNS))}")
    dataset = find_dataset(artifacts.store, data)
    base = Base(
        dataset=data,
        dataset_fingerprint=dataset.fingerprint,
        preset=preset,
        task=task,
        shots=shots,
        overrides=settings,
        variants=variants,
    )
    for values in space.corners():
        study_of(dataset, preset, task, shots, 0, {**settings, **values}, measure="validate")
    head = Ledger(artifacts.store).open(base, space.fields, metric)
    return Sweep(head, dataset, space, tuple(range(seeds)), probes)


class Plan(SharedPlan):
    """What a sweep would run, and what it shares. configurations: its own, or corners of a space that is searched."""

    def __init__(self, sweep: Sweep, configurations: Sequence[Values], artifacts: Artifacts):
        super().__init__([sweep.study(values, seed) for values in configurations for seed in sweep.seeds], artifacts)
        shared = [stage for name, stage in self.to_run.items() if self.needed[name] > 1]
        if sweep.probes:  # which look with a judge
            full = sweep.study(configurations[0], sweep.seeds[0], judged=True)
            shared += [stage for stage in full.plan(artifacts).to_run if stage.kind == "judge"]
        self.shared = [*in_order(shared)]
        """Those that several trials need, each after its inputs: they run before the trials, on all workers."""


def run_shared(
    sweep: Sweep, artifacts: Artifacts, settings: Trials, samples: int, workers: Workers, on_event: OnEvent
) -> None:
    """Run the stages that trials share. Ray must be initialised. on_event: called with the events of the workers.

    samples: configurations of a random or optuna search.
    """
    todo = sweep.space.corners() if settings.search == "optuna" else _open(sweep, artifacts, settings, samples)
    if todo:
        run_stages(Plan(sweep, todo, artifacts).shared, sweep, artifacts, workers, on_event)


def run_sweep(
    sweep: Sweep,
    artifacts: Artifacts,
    settings: Trials,
    samples: int,
    placement: Placement,
    logs: Path,
    on_event: OnEvent,
    track: Track | None = None,
) -> None:
    """Run the trials that have not run. Ray must be initialised.

    samples: configurations of a random or optuna search. logs: where Tune keeps its own, and TensorBoard files.
    on_event: called with the events of the trials, which name them. track: called with each trial that has ended.
    """
    ledger = Ledger(artifacts.store)
    ledger.clear_stop(sweep.head.id)

    def go(configurations: Sequence[Values], space: Mapping[str, Any], how: Trials, **more: Any) -> None:
        body = RunTrial(sweep, artifacts, tuple(configurations), placement.workers)
        run_trials(
            body,
            space,
            name=f"{sweep.head.id}-{how.search}",
            directory=logs,
            settings=how,
            placement=placement,
            on_event=_Keeper(sweep, ledger, body, on_event, track),
            should_stop=partial(ledger.stop_asked, sweep.head.id),
            **more,
        )

    todo = _open(sweep, artifacts, settings, samples)
    if todo:
        go(todo, {"index": numbered(len(todo))}, settings.model_copy(update={"search": "grid"}))
    if settings.search == "optuna":
        done = [record for record in ledger.trials(sweep.head.id).values() if record.state == "finished"]
        scored = [(sweep.space.config(record.values), sweep.score(record)) for record in done]
        inside = [(config, score) for config, score in scored if config is not None]
        if samples + 1 > len(done):
            go((), sweep.space.tune(), settings, samples=samples + 1 - len(done), known=inside)


def read_test_rows(sweep: Sweep, artifacts: Artifacts, placement: Placement, on_stage: OnEvent) -> TestTable | None:
    """Measure the chosen configuration, and the baseline, on the test rows. None if no trial has finished.

    Nothing is trained, so one process for each study does, and starts in a quarter of the time of a Ray Train run.
    """
    ledger = Ledger(artifacts.store)
    finished = [r for r in ledger.trials(sweep.head.id).values() if r.state == "finished" and not _is_open(sweep, r)]
    if not finished:
        return None
    chosen = max(finished, key=sweep.score)
    baseline = next((record for record in finished if record.values == sweep.baseline), None)
    before = ledger.test(sweep.head.id)
    if before and before.chosen == chosen.values and {r.seed for r in before.rows["chosen"]} == set(sweep.seeds):
        return before
    told = {"chosen": chosen} | ({"baseline": baseline} if baseline and baseline is not chosen else {})
    studies = {title: [sweep.study(r.values, seed, "evaluate") for seed in sweep.seeds] for title, r in told.items()}
    plans = [study.plan(artifacts).to_train for all_ in studies.values() for study in all_]
    run_apart([Alone(Worker(stages, artifacts)) for stages in plans if stages], placement, on_stage)
    rows = {title: tuple(seed_result(study, artifacts, 0.0) for study in all_) for title, all_ in studies.items()}
    table = TestTable(chosen=chosen.values, rows=rows, readings=before.readings + 1 if before else 1)
    ledger.put_test(sweep.head.id, table)
    return table


@dataclass(frozen=True)
class Alone:
    """Stages that one process runs by itself."""

    worker: Worker

    def __call__(self, tell: Tell) -> None:
        self.worker(AloneRuntime(self.worker.artifacts.store, tell))


def run_stages(
    stages: Sequence[Stage], sweep: Sweep, artifacts: Artifacts, workers: Workers, on_event: OnEvent
) -> None:
    """Run stages on Ray Train workers; the tensor caches among them before, on every core."""
    for stage in stages:
        if stage.kind == FACES:
            make_faces(artifacts, sweep.dataset.fingerprint, stage.recipe)
    training = tuple(stage for stage in stages if stage.kind != FACES)
    if training:
        name = f"sweep-{sweep.head.id[:8]}-{uuid.uuid4().hex[:8]}"  # the same sweep may run on another machine, too
        run(Worker(training, artifacts), name=name, workers=workers, store=artifacts.store, on_event=on_event)


def stage_seconds(artifacts: Artifacts, trials: Iterable[TrialRecord]) -> dict[str, float]:
    """What each stage of the trials took to make, by fingerprint."""
    kinds = {name: stage.split()[0] for r in trials for s in r.results for stage, name in s.stages.items()}
    with ThreadPoolExecutor(8) as pool:
        records = pool.map(lambda item: artifacts.record(item[1], item[0]), kinds.items())
    return {record.fingerprint: record.seconds for record in records if record}


class _Keeper:
    """Passes events on, and records the trials that cannot do so themselves: those that were stopped, or crashed.

    What it tracks it reads from the ledger.
    """

    def __init__(self, sweep: Sweep, ledger: Ledger, body: RunTrial, pass_on: OnEvent, track: Track | None):
        self.sweep, self.ledger, self.body, self.pass_on, self.track = sweep, ledger, body, pass_on, track
        self.probes: dict[str, list[dict[str, float]]] = {}
        self.begun: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        self.pass_on(event)
        if event["kind"] == "begin":
            self.begun.setdefault(event["trial"], time.monotonic())
        elif event["kind"] == "probe":
            self.probes.setdefault(event["trial"], []).append(event["probe"])
        elif event["kind"] == "trial" and event["state"] in ("stopped", "crashed"):
            state: Literal["stopped", "failed"] = "stopped" if event["state"] == "stopped" else "failed"
            values = self.body.values(event["config"])
            before = self.ledger.trial(self.sweep.head.id, key := trial_key(self.sweep.head.id, values))
            record = TrialRecord(
                key=key,
                values=dict(values),
                state=state,
                results=before.results if before else (),
                failure=event["message"],
                probes=tuple(self.probes.get(event["trial"], ())),
                tries=before.tries + 1 if before else 1,
                seconds=(before.seconds if before else 0.0) + self._seconds(event["trial"]),
            )
            self.ledger.put_trial(self.sweep.head.id, record)
        if self.track and event["kind"] == "trial" and event["state"] in ("done", "stopped", "crashed"):
            key = trial_key(self.sweep.head.id, self.body.values(event["config"]))
            ended = self.ledger.trial(self.sweep.head.id, key)
            if ended:
                self.track(ended)

    def _seconds(self, trial: str) -> float:
        """Since it began in this command; restarts do not begin anew."""
        return time.monotonic() - self.begun[trial] if trial in self.begun else 0.0


def _open(sweep: Sweep, artifacts: Artifacts, settings: Trials, samples: int) -> list[Values]:
    """The configurations that a command names and that still have something to run."""
    known = Ledger(artifacts.store).trials(sweep.head.id)
    wanted = sweep.configurations(settings, 0 if settings.search == "optuna" else samples)
    return [values for values in wanted if _is_open(sweep, known.get(trial_key(sweep.head.id, values)))]


def _is_open(sweep: Sweep, record: TrialRecord | None) -> bool:
    """Whether a configuration still has something to run."""
    if record is None:
        return True
    if record.state == "failed":
        return record.tries < MAX_TRIES
    return record.state == "finished" and not {r.seed for r in record.results} >= set(sweep.seeds)


def _value(recipe: Any, field: str) -> Any:
    for name in field.split("."):
        recipe = recipe[name]
    return recipe
