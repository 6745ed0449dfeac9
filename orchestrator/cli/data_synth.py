"""`orch data synth`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.options import DEFAULT_STORE, Address, Json, Seed, Store, open_artifacts
from orchestrator.cli.output import Printer
from orchestrator.cli.remote import is_job_server, run_there

if TYPE_CHECKING:
    from orchestrator.datasets import Dataset


def synth(
    name: Annotated[str, typer.Option("--name", help="What to call it; a used name comes to mean the new one.")],
    identities: Annotated[int, typer.Option("--identities", min=1, help="How many people.")] = 60,
    expressions: Annotated[
        str | None,
        typer.Option(
            "--expressions",
            metavar="COUNT|NAMES",
            help="How many of the 54, drawn by seed, or joy,grief,neutral; a wrong name lists those near it. "
            "Without it, all.",
        ),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Faces of each in each of the four poses.")] = 1,
    size: Annotated[int, typer.Option("--size", min=8, max=1024, help="Side of the pictures, in pixels.")] = 64,
    format: Annotated[Literal["png", "jpeg"], typer.Option("--format", help="Of the pictures.")] = "png",  # noqa: A002
    seed: Seed = 0,
    store: Store = DEFAULT_STORE,
    address: Address = None,
    json: Json = False,
) -> None:
    """Draw a dataset: faces of people who do not exist, in every expression and pose, as many as you like.

    Many faces are drawn on a Ray cluster, or on a Ray that starts here.
    """
    from orchestrator.datasets import find_dataset
    from orchestrator.drawn import draw_dataset

    printer, artifacts = Printer(json), open_artifacts(store)
    if address and is_job_server(address):
        run_there(printer, address, artifacts.store, store)
        return _describe(printer, find_dataset(artifacts.store, name))
    with printer.counter("faces drawn") as on_face:
        dataset = draw_dataset(
            artifacts,
            name,
            identities=identities,
            expressions=expressions,
            frames=frames,
            size=size,
            seed=seed,
            format=format,
            on_face=on_face,
            address=address,
        )
    _describe(printer, dataset)


def _describe(printer: Printer, dataset: Dataset) -> None:
    manifest = dataset.manifest
    printer.note(
        f"{manifest.name}: {manifest.kept} faces of {len(manifest.identities)} identities, {len(manifest.expressions)} "
        f"expressions and {len(manifest.poses)} poses; `orch data show {manifest.name} --sheet faces.png` draws some"
    )
    printer.facts({"fingerprint": dataset.fingerprint, "counts": dataset.counts} | manifest.model_dump())
