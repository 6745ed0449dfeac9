"""`orch reproduce`: the paper's tables and figures on one's own faces."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import (
    DEFAULT_STORE,
    Address,
    CheckpointEvery,
    Data,
    Gpu,
    Json,
    Overrides,
    Preset,
    Store,
    Workers,
    Zero,
    open_artifacts,
    pairs,
)
from orchestrator.cli.output import Printer
from orchestrator.cli.remote import is_job_server, run_there

REPORTS = Path(".local/reproductions")
ALL_TASKS = "ER-SS,ER-FID,ER-ZID,ER-FP,ER-ZP,ER-FE"


def reproduce(
    data: Data,
    tables: Annotated[str, typer.Option("--tables", help="Which of the paper's tables, between commas.")] = "4,5,6,7",
    tasks: Annotated[str, typer.Option("--tasks", help="Which recognition tasks, between commas.")] = ALL_TASKS,
    preset: Preset = "paper",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds 0, 1, ...: each draws its split and trains its generators.")
    ] = 3,
    shots: Annotated[
        int, typer.Option("--shots", min=1, help="Shots in Tables 4, 5 and 7; Table 6 has 1, 3 and 5.")
    ] = 1,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also train Comp-GAN without each of its losses (Fig. 16).")
    ] = False,
    pretrained_on: Annotated[
        str | None,
        typer.Option(
            "--pretrained-on",
            help="Tables 2 and 3: what the run on --data starts from, a data set or LightCNN's checkpoint.",
        ),
    ] = None,
    attributes: Annotated[
        bool,
        typer.Option("--attributes", help="Pre-train on that data set's binary attributes, as CelebA's 40."),
    ] = False,
    show_plan: Annotated[bool, typer.Option("--plan", help="Only say what would run, and what it would cost.")] = False,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Run nothing: report what there is, of a run under way, too.")
    ] = False,
    alone: Annotated[bool, typer.Option("--alone", help="In this process, without Ray.")] = False,
    workers: Workers = 1,
    gpu: Gpu = None,
    zero: Zero = 0,
    overrides: Overrides = None,
    store: Store = DEFAULT_STORE,
    address: Address = None,
    checkpoint_every: CheckpointEvery = 60.0,
    directory: Annotated[Path, typer.Option("--report", help="Where the report is written.")] = REPORTS,
    json: Json = False,
) -> None:
    """Compute the paper's tables on a data set, and report them beside the paper's numbers.

    The same command resumes. Several at once, on one store, share the work: each takes what no other one is at.
    """
    from compgan_core.errors import DataError, DivergenceError
    from orchestrator.cli.train import run_plan
    from orchestrator.datasets import Dataset, dataset_names, find_dataset
    from orchestrator.reproduce.assemble import assemble
    from orchestrator.reproduce.report import write_report
    from orchestrator.reproduce.reproduction import make_reproduction
    from orchestrator.reproduce.supervised import Pretrained, public_lightcnn
    from orchestrator.study import SharedPlan
    from orchestrator.sweeps.page import duration

    printer, artifacts = Printer(json), open_artifacts(store)
    settings, dataset = pairs("--set", overrides), find_dataset(artifacts.store, data)
    imported = {name: find_dataset(artifacts.store, name) for name in dataset_names(artifacts.store)}
    before: Dataset | Pretrained | None = imported.get(pretrained_on or "")
    if pretrained_on and before is None:
        before = public_lightcnn(artifacts, Path(pretrained_on), preset, settings)
    made = make_reproduction(
        dataset,
        preset=preset,
        tables=_numbers(tables),
        tasks=_names(tasks),
        seeds=seeds,
        shots=shots,
        overrides=settings,
        ablations=ablations,
        others={other.manifest.format: other for other in imported.values()},
        before=before,
        attributes=attributes,
    )
    studies = made.everything
    plan = SharedPlan([*studies.values()], artifacts)
    seconds = plan.seconds(artifacts)
    printer.note(
        f"{len(studies)} studies; {plan.separate} stage runs if each had its own, {plan.distinct} as they share, "
        f"{len(plan.to_run)} to run"
        + (f", by earlier records {duration(seconds)} one after another" if seconds else "")
    )
    cost = {"separate": plan.separate, "shared": plan.distinct, "to_run": len(plan.to_run), "seconds": seconds}
    if show_plan:
        return printer.facts({"studies": list(studies), "stage_runs": cost})
    failures: dict[str, str] = {}
    there = address and is_job_server(address) and plan.to_run and not only_report
    if address and there:
        failures |= run_there(printer, address, artifacts.store, store)["failures"]
    for number, (name, study) in enumerate(() if there or only_report else studies.items(), start=1):
        to_run = study.plan(artifacts)
        if to_run.to_run:
            printer.note(f"study {number} of {len(studies)}: {name}")
            try:
                run_plan(printer, artifacts, study, to_run, workers, zero, address, checkpoint_every, gpu, alone=alone)
            except (DataError, DivergenceError) as error:  # of this study alone: the others may do
                failures[name] = str(error)
                printer.note(f"{name}: {error}")
    home = directory / f"{data}-{preset}"
    report = assemble(made, artifacts, failures, shlex.join(["orch", *sys.argv[1:]]), home)
    paths = write_report(report, home)
    printer.table(
        ("claims of the paper", "number"), [(verdict, count) for verdict, count in sorted(report.counts.items())]
    )
    printer.note(f"report: {paths['index.html']}")
    printer.facts(
        {
            "stage_runs": cost,
            "failures": failures,
            "claims": dict(report.counts),
            "tables": [
                {
                    "name": table.name,
                    "columns": table.columns,
                    "rows": {
                        row.title: [cell.spread.mean if cell.spread else None for cell in row.cells]
                        for row in table.rows
                    },
                }
                for table in report.tables
            ],
            "report": {name: str(path) for name, path in paths.items()},
        }
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    from compgan_core.errors import ConfigurationError

    try:
        return [int(name) for name in _names(text)]
    except ValueError:
        raise ConfigurationError(f"--tables {text!r}: write numbers between commas, as 4,5,6,7") from None
