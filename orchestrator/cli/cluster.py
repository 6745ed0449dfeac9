"""`orch cluster`: is a cluster file fit for this work, what would it cost, and is a cluster idle?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.output import Printer

app = typer.Typer(help="Cluster files: check them, and what they cost.", no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Argument(help="A file of `ray up` or KubeRay, as those in cluster/.")]


@app.command()
def validate(
    file: File,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Training workers that must fit.")] = 1,
    images: Annotated[
        int, typer.Option("--images", min=0, help="Images of the largest data set; the default is F2ED's count.")
    ] = 219_719,
    json: Json = False,
) -> None:
    """Check a cluster file: its form, who can reach the cluster, what stays and costs, and whether the work fits.

    Each line says what to do; the exit code is 2 if there is one.
    """
    from orchestrator.cluster_files import problems, read

    printer, cluster = Printer(json), read(file)
    printer.table(
        ("group", "machine", "count", "CPUs", "GPUs", "memory", "disk", "/dev/shm"),
        [
            (
                m.name,
                m.price_name,
                _count(m.least, m.most),
                m.cpus,
                m.gpus,
                *map(_gib, (m.memory_gib, m.disk_gib, m.shm_gib)),
            )
            for m in cluster.machines
        ],
    )
    found = problems(cluster, workers, images)
    for problem in found:
        printer.note(f"TO DO  {problem}")
    if not found:
        printer.note(f"ok     {file} is fit for {workers} worker(s) and {images} images")
    printer.facts({"ok": not found, "problems": found})
    if found:
        raise typer.Exit(2)


@app.command()
def cost(
    file: File,
    prices: Annotated[Path, typer.Option("--prices", help="As cluster/prices.example.yaml.")],
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Training workers; without it, all machines that may come.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", envvar="COMPGAN_STORE", help="Whose records say how long a stage takes.")
    ] = None,
    json: Json = False,
) -> None:
    """What a cluster costs an hour, by the prices you give; and a stage, by the seconds of the records in a store.

    Records do not know the machines of this file: a stage that was recorded elsewhere takes another time here.
    """
    from orchestrator.cli.options import open_artifacts
    from orchestrator.cluster_cost import Prices, group_costs, stage_costs
    from orchestrator.cluster_files import read

    printer, given = Printer(json), Prices.read(prices)
    groups = group_costs(read(file), given, workers)
    per_hour = sum(group.per_hour for group in groups)
    money = f"{given.currency}/h"
    printer.table(
        ("group", "machine", "machines", "GPUs", "memory", money),
        [(g.name, g.machine, g.count, g.gpus, _gib(g.memory_gib), f"{g.per_hour:.2f}") for g in groups],
    )
    gpus = sum(group.gpus for group in groups)
    printer.note(f"in all: {sum(g.count for g in groups)} machines, {gpus:g} GPUs, {per_hour:.2f} {money}")
    stages = stage_costs(open_artifacts(store).records(), per_hour) if store else []
    if stages:
        printer.table(
            ("stage", "records", "mean seconds", f"{given.currency} each"),
            [(s.kind, s.runs, s.mean_seconds, f"{s.each:.2g}") for s in stages],
            title="by the seconds of the records",
        )
    printer.facts(
        {
            "currency": given.currency,
            "per_hour": per_hour,
            "groups": [g.model_dump() for g in groups],
            "stages": [s.model_dump() for s in stages],
        }
    )


@app.command()
def idle(
    minutes: Annotated[float, typer.Option("--minutes", min=0, help="How long without any driver or job.")] = 60,
    address: Annotated[str, typer.Option("--address", help="The dashboard of the cluster.")] = "http://127.0.0.1:8265",
    json: Json = False,
) -> None:
    """Exit with 0 if the cluster has had nothing to do for so long, else with 1, for a clock to call."""
    from orchestrator.runtime.idle import idle_minutes

    printer, since = Printer(json), idle_minutes(address)
    printer.note(f"idle for {since:.1f} minutes")
    printer.facts({"idle_minutes": since})
    if since < minutes:
        raise typer.Exit(1)


def _count(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _gib(size: float | None) -> str | None:
    return None if size is None else f"{size:.3g} GiB"
