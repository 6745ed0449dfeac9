"""`orch report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_STORE, Json, Run, Store, open_artifacts
from orchestrator.cli.output import Printer

REPORTS = Path(".local/runs")


def report(
    run: Run = None,
    show: Annotated[bool, typer.Option("--open", help="And open it in a browser.")] = False,
    directory: Annotated[Path, typer.Option("--report", help="Where it is written, as <run>.html.")] = REPORTS,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", help="Also write curves and pictures as TensorBoard's files here.")
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write the page of a run, finished or not: table, time-lapse, pipeline, curves, confusions, provenance.

    One file that needs no network; a later call brings it up to date.
    """
    from orchestrator.monitor.report import write_report
    from orchestrator.monitor.runs import Runs
    from orchestrator.monitor.tensorboard import write_tensorboard

    printer, artifacts = Printer(json), open_artifacts(store)
    head = Runs(artifacts.store).find(run)
    path = write_report(artifacts, head, directory / f"{head.id}.html")
    printer.note(f"report: {path}")
    if tensorboard:
        write_tensorboard(artifacts, head, tensorboard / head.id)
        printer.note(f"curves and pictures: tensorboard --logdir {tensorboard}")
    if show:
        typer.launch(path.absolute().as_uri())
    printer.facts({"run": head.id, "report": str(path)})
