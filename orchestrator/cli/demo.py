"""`orch demo`: the whole road on this machine, from a real S3 server and a local Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json, Overrides, Seed, Workers, open_artifacts
from orchestrator.cli.output import Printer
from orchestrator.cli.train import build_study, report, run_plan

BUCKET = "s3://compgan-demo"
FACES = "procedural"


def demo(
    data: Annotated[
        str | None, typer.Option("--data", help="A dataset of the demo's own store; without it, procedural faces.")
    ] = None,
    workers: Workers = 1,
    seed: Seed = 0,
    overrides: Overrides = None,
    directory: Annotated[Path, typer.Option("--directory", help="Where the demo keeps everything.")] = Path(
        ".local/demo"
    ),
    json: Json = False,
) -> None:
    """Make faces, train on ER-FE with 5 shots at preset tiny, and print the table; run again, print it from records."""
    from orchestrator.datasets import dataset_names, import_dataset
    from orchestrator.store_server import StoreServer

    printer = Printer(json)
    with StoreServer(directory / "s3") as server:
        os.environ.update(server.environment())
        os.environ.setdefault("COMPGAN_CACHE", str((directory / "cache").absolute()))
        artifacts = open_artifacts(BUCKET)
        artifacts.store.check(create=True)
        if data is None and FACES not in dataset_names(artifacts.store):
            printer.note("drawing procedural faces")
            import_dataset(artifacts, "procedural", None, FACES)
        study = build_study(artifacts, data or FACES, "ER-FE", 5, "tiny", seed, overrides)
        plan = study.plan(artifacts)
        seconds = run_plan(printer, artifacts, study, plan, workers, 0)
        report(printer, artifacts, study, plan, seconds)
