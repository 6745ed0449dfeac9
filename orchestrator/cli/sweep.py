"""`orch sweep`: search a space of recipes, and share between its trials whatever they have in common."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import (
    DEFAULT_STORE,
    Address,
    CheckpointEvery,
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

if TYPE_CHECKING:
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.runtime.ray_tune import Trials
    from orchestrator.sweeps.analysis import Line
    from orchestrator.sweeps.sweep import Sweep
    from orchestrator.sweeps.tracking import Track

app = typer.Typer(help="Search a space of recipes: how many faces help, and which loss weights.", rich_markup_mode=None)
REPORTS = Path(".local/sweeps")


@app.callback(invoke_without_command=True)
def sweep(
    context: typer.Context,
    data: Annotated[str | None, typer.Option("--data", help="Name of an imported dataset.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="The recognition task, e.g. ER-FE.")] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="FIELD=VALUES",
            help="Sweep a field of the recipe: lambda.exp=10,20,30, mu.con=5:80 or mu.con=log:5:80; many multiply.",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option("--space", help="A named space: counts (by itself the default), weights or ablation."),
    ] = None,
    search: Annotated[str, typer.Option("--search", help="grid, random or optuna.")] = "grid",
    scheduler: Annotated[str, typer.Option("--scheduler", help="Early stopping: none, asha or median.")] = "none",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Configurations of a random or optuna search.")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of each configuration: 0, 1, ...")] = 3,
    shots: Annotated[int, typer.Option("--shots", min=1, help="Labelled images of each novel class.")] = 5,
    variant: Annotated[str, typer.Option("--variant", help="The row of the table that is swept.")] = "compgan",
    metric: Annotated[
        str, typer.Option("--metric", help="What configurations are compared by: novel_only, novel, base, ...")
    ] = "",
    budget: Annotated[
        float | None, typer.Option("--budget", help="Hours; trials under way are kept and resumed.")
    ] = None,
    concurrent: Annotated[int | None, typer.Option("--concurrent", min=1, help="Trials at once.")] = None,
    allow: Annotated[bool, typer.Option("--allow", help="Allow more than 1000 synthesized images.")] = False,
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow",
            metavar="URI",
            envvar="MLFLOW_TRACKING_URI",
            help="Write each trial to this MLflow tracking URI.",
        ),
    ] = None,
    show_plan: Annotated[bool, typer.Option("--plan", help="Only say what would run, and what it would cost.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the sweeps of the store.")] = False,
    preset: Preset = "paper",
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
    """Sweep; with nothing but --data and --task, the paper's Sec. 5.4: 0 to 1000 synthesized images, 5 shots, 3 seeds.

    The same command resumes; a wider one extends, and runs only what is new. Configurations are chosen by validation
    rows; the test rows are read once, for the chosen one. With --address http://head:8265 it runs as a job of that
    cluster; Ctrl-C leaves it running, and the same command attaches to it.
    """
    if context.invoked_subcommand:
        return
    from compgan_core.errors import ConfigurationError

    printer, artifacts = Printer(json), open_artifacts(store)
    if show_list:
        return _list(printer, artifacts)
    if not (data and task):
        raise ConfigurationError("say what to sweep with --data NAME and --task ER-FE; see orch sweep --help")
    from orchestrator.runtime.ray_tune import trials_of
    from orchestrator.sweeps.page import duration
    from orchestrator.sweeps.sweep import Plan, make_sweep
    from orchestrator.sweeps.tracking import tracker

    settings = trials_of(search=search, scheduler=scheduler, concurrent=concurrent, budget_hours=budget)
    made = make_sweep(
        artifacts,
        data=data,
        task=task,
        preset=preset,
        shots=shots,
        overrides=pairs("--set", overrides),
        variant=variant,
        metric=metric,
        over=over or [],
        named=space,
        allow=allow,
        seeds=seeds,
        probes=scheduler != "none",
    )
    configurations = made.configurations(settings, trials)
    plan = Plan(made, configurations, artifacts)
    seconds = plan.seconds(artifacts)
    printer.note(
        f"sweep {made.head.id}: {_counted(len(configurations), 'configuration')} x {_counted(seeds, 'seed')}; "
        f"{plan.separate} stage runs if each had its own, {plan.distinct} as they share, {len(plan.to_run)} to run"
        + (f", by earlier records {duration(seconds)} one after another" if seconds is not None else "")
    )
    if show_plan:
        facts = {"separate": plan.separate, "shared": plan.distinct, "to_run": len(plan.to_run), "seconds": seconds}
        return printer.facts({"sweep": made.head.id, "configurations": configurations, "stage_runs": facts})
    track = tracker(mlflow, made.head) if mlflow else None
    if address and is_job_server(address):
        run_there(printer, address, artifacts.store, store)
    else:
        how = {"num_workers": workers, "use_gpu": gpu, "zero_stage": zero, "checkpoint_every_s": checkpoint_every}
        _run(printer, artifacts, made, settings, trials, how, address, directory, track)
    _report(printer, artifacts, made.head.id, directory)


@app.command()
def show(
    sweep: Annotated[str, typer.Argument(help="The id of a sweep, or its beginning; `orch sweep --list` has them.")],
    store: Store = DEFAULT_STORE,
    directory: Annotated[Path, typer.Option("--report", help="Where the report is written.")] = REPORTS,
    json: Json = False,
) -> None:
    """Print the leaderboard of a sweep, finished or not, and write its report."""
    from orchestrator.sweeps.ledger import Ledger

    printer, artifacts = Printer(json), open_artifacts(store)
    _report(printer, artifacts, Ledger(artifacts.store).head(sweep).id, directory)


@app.command()
def stop(
    sweep: Annotated[str, typer.Argument(help="The id of a sweep, or its beginning.")],
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Ask a running sweep to end; what it has done is kept, and the same command resumes it."""
    from orchestrator.sweeps.ledger import Ledger

    printer, ledger = Printer(json), Ledger(open_artifacts(store).store)
    head = ledger.head(sweep)
    ledger.ask_to_stop(head.id)
    printer.note(f"sweep {head.id} was asked to stop")
    printer.facts({"sweep": head.id})


def _run(
    printer: Printer,
    artifacts: Artifacts,
    sweep: Sweep,
    settings: Trials,
    samples: int,
    workers: Mapping[str, Any],
    address: str | None,
    directory: Path,
    track: Track | None,
) -> None:
    from orchestrator.cli.progress import watch
    from orchestrator.cli.sweep_view import watch_trials
    from orchestrator.runtime.cluster import Workers, start_ray
    from orchestrator.runtime.ray_tune import place_trials
    from orchestrator.sweeps.sweep import read_test_rows, run_shared, run_sweep

    artifacts.store.check()
    how = Workers(**workers)
    start_ray(address)
    placement = place_trials(settings, how)
    with watch(printer.console) as on_stage:
        run_shared(sweep, artifacts, settings, samples, how, on_stage)
    with watch_trials(printer.console) as on_trial:
        run_sweep(sweep, artifacts, settings, samples, placement, directory / "tune", on_trial, track)
    with watch(printer.console) as on_stage:
        read_test_rows(sweep, artifacts, placement, on_stage)


def _report(printer: Printer, artifacts: Artifacts, sweep: str, directory: Path) -> None:
    from orchestrator.sweeps.findings import Findings
    from orchestrator.sweeps.ledger import Ledger
    from orchestrator.sweeps.page import duration
    from orchestrator.sweeps.report import write_report
    from orchestrator.sweeps.sweep import baseline_of, stage_seconds

    ledger = Ledger(artifacts.store)
    head, trials = ledger.head(sweep), tuple(ledger.trials(sweep).values())
    test, seconds = ledger.test(sweep), stage_seconds(artifacts, trials)
    command = shlex.join(["orch", *sys.argv[1:]])
    findings = Findings(head, trials, test, seconds, baseline_of(head), command)
    lines = findings.lines
    printer.table(
        ("configuration", head.metric, "± s.d.", "95% interval", "seeds", "state"),
        [(findings.name(line), *_row(line)) for line in lines],
        title=f"{head.base.task} on {head.base.dataset}, validation rows, accuracy in %",
    )
    if findings.cost.factor:
        printer.note(
            f"stages took {duration(findings.cost.seconds)}; each configuration on its own would have taken "
            f"{duration(findings.cost.separate_seconds)}, {findings.cost.factor:.1f} times as long"
        )
    for title, results in (test.rows if test else {}).items():
        for variant in head.base.variants:
            scores = [result.metrics[variant][head.metric] for result in results]
            printer.note(f"test rows, {title}, {variant}: {head.metric} {sum(scores) / len(scores):.1f}")
    if findings.chosen and findings.name(findings.chosen).startswith("trial "):
        values = ", ".join(f"{field}={value}" for field, value in findings.chosen.values.items())
        printer.note(f"{findings.name(findings.chosen)}: {values}")
    paths = write_report(directory / sweep, findings)
    printer.note(f"report: {directory / sweep / 'index.html'}")
    printer.facts({"sweep": sweep, "leaderboard": [line.model_dump() for line in lines], "report": paths})


def _row(line: Line) -> tuple[object, ...]:
    interval = f"{line.interval.low:.1f} to {line.interval.high:.1f}" if line.interval else ""
    return line.mean, line.deviation, interval, len(line.by_seed), line.failure or line.state


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _list(printer: Printer, artifacts: Artifacts) -> None:
    from orchestrator.sweeps.ledger import Ledger

    ledger = Ledger(artifacts.store)
    columns = ("sweep", "created", "dataset", "task", "preset", "fields", "trials")
    rows = [
        (h.id, h.created, h.base.dataset, h.base.task, h.base.preset, ", ".join(h.fields), len(ledger.trials(h.id)))
        for h in ledger.heads()
    ]
    printer.table(columns, rows)
    printer.facts({"sweeps": [dict(zip(columns, row, strict=True)) for row in rows]})
