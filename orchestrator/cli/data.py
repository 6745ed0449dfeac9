"""`orch data`: import, show and list datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DEFAULT_STORE, Json, Store, open_artifacts
from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from orchestrator.datasets import Dataset

app = typer.Typer(help="Import, show and list datasets of labelled faces.", no_args_is_help=True, rich_markup_mode=None)
BAD_SHOWN = 10


@app.command("import")
def import_(
    format: Annotated[  # noqa: A002
        str, typer.Argument(help="How SOURCE is laid out, e.g. labelled-tree; a wrong one lists those there are.")
    ],
    name: Annotated[str, typer.Option("--name", help="What to call it; a used name comes to mean the new one.")],
    source: Annotated[
        Path | None, typer.Argument(help="An archive or a directory on this machine; procedural faces have none.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out images that do not decode, and list them.")
    ] = False,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Bring labelled faces into the store: all of them or, at the first failure, none."""
    from orchestrator.datasets import import_dataset

    printer, artifacts = Printer(json), open_artifacts(store)
    with _counter(printer) as on_face:
        dataset = import_dataset(artifacts, format, source, name, keep_going=keep_going, on_face=on_face)
    _describe(printer, dataset)
    printer.facts(_facts(dataset))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An imported dataset.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also write a picture of some of its faces, PNG.")
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Say what a dataset holds and what was left out of it."""
    from orchestrator.datasets import find_dataset, write_sheet

    printer, artifacts = Printer(json), open_artifacts(store)
    dataset = find_dataset(artifacts.store, name)
    _describe(printer, dataset)
    if sheet:
        write_sheet(dataset.fetch(artifacts), sheet)
        printer.note(f"sheet: {sheet}")
    printer.facts(_facts(dataset) | ({"sheet": sheet} if sheet else {}))


@app.command()
def ls(store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """List the datasets of the store."""
    from orchestrator.datasets import dataset_names, find_dataset

    printer, opened = Printer(json), open_artifacts(store).store
    datasets = [find_dataset(opened, name) for name in dataset_names(opened)]
    columns = ("name", "format", "faces", "identities", "poses", "expressions")
    printer.table(columns, [_row(dataset) for dataset in datasets])
    printer.facts({"store": opened.url, "datasets": [dict(zip(columns, _row(d), strict=True)) for d in datasets]})


@contextmanager
def _counter(printer: Printer) -> Iterator[Callable[[int], object]]:
    """Shows how many faces were read, on a terminal only."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed} faces read"), TimeElapsedColumn()
    console = printer.console
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda count: progress.update(task, completed=count)


def _row(dataset: Dataset) -> tuple[str, str, int, int, int, int]:
    m = dataset.manifest
    return m.name, m.format, m.kept, len(m.identities), len(m.poses), len(m.expressions)


def _describe(printer: Printer, dataset: Dataset) -> None:
    m = dataset.manifest
    printer.note(f"{m.name} ({m.format}): {m.kept} faces of {len(m.identities)} identities")
    for title, counts in (("pose", dataset.faces_by_pose), ("expression", dataset.faces_by_expression)):
        printer.table((title, "faces"), [(label or "(none)", count) for label, count in counts.items()])
    for reason, count in m.excluded.items():
        printer.note(f"left out: {count} {reason}")
    if m.duplicates:
        printer.note(f"left out: {len(m.duplicates)} copies of other faces, such as {m.duplicates[0].key}")
    for bad in m.quarantined[:BAD_SHOWN]:
        printer.note(f"broken: {bad.key}: {bad.reason}")
    if len(m.quarantined) > BAD_SHOWN:
        printer.note(f"broken: {len(m.quarantined) - BAD_SHOWN} more, listed by --json")


def _facts(dataset: Dataset) -> dict[str, object]:
    return (
        {"fingerprint": dataset.fingerprint}
        | dataset.manifest.model_dump()
        | {
            "faces_by_pose": dataset.faces_by_pose,
            "faces_by_expression": dataset.faces_by_expression,
        }
    )
