"""`orch train` and `orch plan`: a study from its options, what it would do, and doing it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import (
    DEFAULT_STORE,
    Address,
    CheckpointEvery,
    Data,
    Gpu,
    Json,
    MinWorkers,
    Overrides,
    Preset,
    Price,
    Recompute,
    Seed,
    Shots,
    Store,
    Task,
    Workers,
    Zero,
    open_artifacts,
    pairs,
)
from orchestrator.cli.output import Printer
from orchestrator.cli.remote import is_job_server, run_there

if TYPE_CHECKING:
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.study import Plan, Study


def train(
    data: Data,
    task: Task,
    shots: Shots = 1,
    preset: Preset = "paper",
    workers: Workers = 1,
    min_workers: MinWorkers = None,
    gpu: Gpu = None,
    zero: Zero = 0,
    recompute: Recompute = False,
    seed: Seed = 0,
    overrides: Overrides = None,
    store: Store = DEFAULT_STORE,
    address: Address = None,
    checkpoint_every: CheckpointEvery = 60.0,
    price: Price = None,
    json: Json = False,
) -> None:
    """Train Comp-GAN for a task, synthesize faces, and set what they are worth in a table.

    Stages with a record in the store are not run again; the same command resumes what was interrupted. With --address
    http://head:8265 it runs as a job of that cluster; Ctrl-C leaves it running, and the same command attaches to it.
    """
    printer, artifacts = Printer(json), open_artifacts(store)
    study = build_study(artifacts, data, task, shots, preset, seed, overrides)
    plan = study.plan(artifacts)
    if address and plan.to_run and is_job_server(address):
        told = run_there(printer, address, artifacts.store, store, live=True)
        seconds = {stage["fingerprint"]: stage["seconds"] for stage in told["stages"]}
    else:
        seconds = run_plan(
            *(printer, artifacts, study, plan, workers, zero, address, checkpoint_every, gpu, price),
            min_workers=min_workers,
            recompute=recompute,
        )
    report(printer, artifacts, study, plan, seconds)


def plan(
    data: Data,
    task: Task,
    shots: Shots = 1,
    preset: Preset = "paper",
    workers: Workers = 1,
    min_workers: MinWorkers = None,
    gpu: Gpu = None,
    zero: Zero = 0,
    recompute: Recompute = False,
    seed: Seed = 0,
    overrides: Overrides = None,
    store: Store = DEFAULT_STORE,
    address: Address = None,
    checkpoint_every: CheckpointEvery = 60.0,
    json: Json = False,
) -> None:
    """Show what `orch train` with the same options would run, what is cached, and why. Touches nothing."""
    printer, artifacts = Printer(json), open_artifacts(store)
    study = build_study(artifacts, data, task, shots, preset, seed, overrides)
    made = study.plan(artifacts)
    made.check_workers([workers])
    fewer_than(workers, min_workers, made)
    printer.table(
        ("stage", "state", "why", "fingerprint"),
        [(step.stage.name, step.state, step.why, step.stage.fingerprint) for step in made.steps],
    )
    printer.note(f"{len(made.to_run)} of {len(made.steps)} stages would run, on {workers} worker(s) with ZeRO {zero}")
    printer.facts(
        {
            "study": study.name,
            "recipe": study.recipe.model_dump(mode="json", by_alias=True),
            "stages": [
                {"name": s.stage.name, "fingerprint": s.stage.fingerprint, "state": s.state, "why": s.why}
                for s in made.steps
            ],
        }
    )


def fewer_than(workers: int, min_workers: int | None, plan: Plan) -> tuple[int, ...]:
    """The numbers of workers from min_workers on that will do while there is no room for all."""
    from compgan_core.errors import ConfigurationError

    if min_workers is None:
        return ()
    if min_workers > workers:
        raise ConfigurationError(f"--min-workers {min_workers} is more than --workers {workers}: give at most as many")
    fewer = plan.sizes(range(min_workers, workers))
    if min_workers < workers and not fewer:
        raise ConfigurationError(
            f"--min-workers {min_workers} allows no fewer workers: batches divide over none of {min_workers} to "
            f"{workers - 1}; give less"
        )
    return fewer


def build_study(
    artifacts: Artifacts,
    data: str,
    task: str,
    shots: int,
    preset: str,
    seed: int,
    overrides: list[str] | None,
) -> Study:
    """The study that the options name. Everything that can be wrong with them is found here, before Ray is started."""
    from orchestrator.datasets import find_dataset
    from orchestrator.study import study_of

    settings = pairs("--set", overrides)
    return study_of(find_dataset(artifacts.store, data), preset, task, shots, seed, settings)


def run_plan(
    printer: Printer,
    artifacts: Artifacts,
    study: Study,
    plan: Plan,
    workers: int,
    zero: int,
    address: str | None = None,
    checkpoint_every: float = 60.0,
    gpu: bool | None = None,
    price: float | None = None,
    *,
    alone: bool = False,
    min_workers: int | None = None,
    recompute: bool = False,
) -> dict[str, float]:
    """Run what the plan says, on a Ray that is joined or started; the seconds of each stage, by fingerprint.

    alone: in this process, without Ray.
    """
    seconds: dict[str, float] = {}
    if not plan.to_run:
        return seconds
    plan.check_workers([workers])
    fewer = fewer_than(workers, min_workers, plan)
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.cli.progress import watch
    from orchestrator.monitor.keeper import head_of, keep
    from orchestrator.study import Worker, make_faces_of

    artifacts.store.check()
    artifacts = Artifacts(artifacts.store.patient(), artifacts.cache)  # from here on an outage is a pause
    if alone:
        placed: dict[str, Any] = {"workers": {"num_workers": 1, "zero_stage": 0}, "address": "", "job": ""}
    else:
        from orchestrator.runtime.cluster import Workers, address_of, job_of, start_ray
        from orchestrator.runtime.ray_train import run

        settings = Workers(
            num_workers=workers,
            fewer=fewer,
            zero_stage=zero,
            use_gpu=gpu,
            recompute=recompute,
            checkpoint_every_s=checkpoint_every,
        )
        start_ray(address)
        placed = {"workers": settings.model_dump(), "address": address_of(), "job": job_of()}
    command = shlex.join(["orch", *sys.argv[1:]])
    head = head_of(study, plan, command=command, price_per_hour=price, **placed)
    printer.note(f"run {head.id}: `orch watch {head.id}` shows it, from any machine")
    with (
        watch(printer.console, [s.name for s in plan.to_run]) as show,
        keep(artifacts.store, head, printer.note) as tell,
    ):

        def on_event(event: Mapping[str, object]) -> None:
            show(event)
            tell(event)
            if event["kind"] == "stage" and event["state"] == "done":
                seconds[str(event["fingerprint"])] = float(str(event["seconds"]))

        make_faces_of(plan, artifacts, on_event, alone=alone)
        body = Worker(plan.to_train, artifacts, draws=True)
        if alone:
            from orchestrator.runtime.alone import AloneRuntime

            body(AloneRuntime(artifacts.store, on_event, checkpoint_every))
        elif plan.to_train:
            labels = {"run_id": head.id, "task": study.recipe.split.task}
            run(body, name=study.name, workers=settings, store=artifacts.store, on_event=on_event, **labels)
    return seconds


def report(printer: Printer, artifacts: Artifacts, study: Study, plan: Plan, seconds: Mapping[str, float]) -> None:
    """The table, what the judge reads, and where everything lies."""
    from orchestrator.results import COLUMNS, outcome, table

    records = study.records(artifacts)
    rows = table(study.titles, records)
    used = [column for column in COLUMNS if any(column in row.means for row in rows)]
    draws, tunings = study.recipe.draws, study.recipe.tunings
    over = f", mean over {draws} draw{'s' * (draws > 1)} x {tunings} fine-tuning{'s' * (tunings > 1)}"
    over += " ± s.e. over draws" if draws > 1 else ""
    printer.table(
        (study.recipe.split.task, *(COLUMNS[column] for column in used)),
        [(row.title, *(row.cell(column) for column in used)) for row in rows],
        title=f"{study.description}: accuracy in %" + (over if draws * tunings > 1 else ""),
    )
    lines, pictures = study.judged(records), []
    for name, record in records.items():
        if record.stage == "pictures":
            shown, of = artifacts.fetch(record), name.removeprefix("pictures").strip() or "comp-gan"
            pictures += [str(shown / "faces.png"), str(shown / "curves.png")]
            lines.append(f"{of + ':':<9}{shown / 'faces.png'} curves.png")
    for line in [] if printer.json else [*lines, f"records: {artifacts.store.url}/artifacts"]:
        printer.note(line)
    printer.facts({**outcome(study, plan, records, seconds), "pictures": pictures})
