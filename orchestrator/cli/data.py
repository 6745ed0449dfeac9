"""`orch data`: import, show and list datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import data_prepare, data_split, data_synth
from orchestrator.cli.options import DEFAULT_STORE, Address, Json, Store, open_artifacts, pairs
from orchestrator.cli.output import Printer
from orchestrator.cli.remote import is_job_server, run_there

if TYPE_CHECKING:
    from orchestrator.datasets import Dataset

app = typer.Typer(
    help="Import, show, verify, split and remove datasets of labelled faces.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
BAD_SHOWN = 10
app.command()(data_prepare.prepare)
app.command()(data_split.split)
app.command()(data_synth.synth)


@app.command("import")
def import_(
    format: Annotated[  # noqa: A002
        str, typer.Argument(help="How SOURCE is laid out, e.g. labelled-tree; a wrong one lists those there are.")
    ],
    name: Annotated[str, typer.Option("--name", help="What to call it; a used name comes to mean the new one.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="A directory or an archive, of this machine or as s3://bucket/prefix; drawn faces have none."
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="An option of the format; a wrong one lists those there are."
        ),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out images that do not decode, and list them.")
    ] = False,
    size: Annotated[
        int | None,
        typer.Option("--size", min=8, help="Also make the tensor cache of presets that store faces of this size."),
    ] = None,
    store: Store = DEFAULT_STORE,
    address: Address = None,
    json: Json = False,
) -> None:
    """Bring labelled faces into the store: all of them or, at the first failure, none.

    Many faces are read on a Ray cluster, or on a Ray that starts here. The same command goes on where it was stopped.
    """
    from orchestrator.datasets import find_dataset, import_dataset
    from orchestrator.ingest import faces_recipe, make_faces

    printer, artifacts, chosen = Printer(json), open_artifacts(store), pairs("--option", options)
    if address and is_job_server(address):
        _refuse_local(source)
        run_there(printer, address, artifacts.store, store)
        dataset = find_dataset(artifacts.store, name)
        _describe(printer, dataset)
        return printer.facts(_facts(dataset))
    with printer.counter("files read") as on_face:
        dataset = import_dataset(
            artifacts, format, source, name, options=chosen, keep_going=keep_going, on_face=on_face, address=address
        )
    if size:
        with printer.counter(f"faces at {size} x {size}") as on_face:
            make_faces(artifacts, dataset.fingerprint, faces_recipe(size, ()), on_face=on_face, address=address)
    _describe(printer, dataset)
    printer.facts(_facts(dataset))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An imported dataset.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also write a picture of some of its faces, PNG.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Also draw its faces by identity, pose and expression, PNG.")
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Say what a dataset holds and what was left out of it."""
    from orchestrator.datasets import find_dataset, write_figure, write_sheet

    printer, artifacts = Printer(json), open_artifacts(store)
    dataset = find_dataset(artifacts.store, name)
    _describe(printer, dataset)
    if sheet:
        write_sheet(artifacts, dataset, sheet)
        printer.note(f"sheet: {sheet}")
    if figure:
        write_figure(dataset, figure)
        printer.note(f"figure: {figure}")
    drawn = {"sheet": sheet, "figure": figure}
    printer.facts(_facts(dataset) | {what: path for what, path in drawn.items() if path})


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="An imported dataset.")],
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Read every shard again from the store, and compare it with the manifest and its checksums."""
    from compgan_core.errors import StorageError
    from orchestrator.datasets import find_dataset, verify_dataset

    printer, artifacts = Printer(json), open_artifacts(store)
    dataset = find_dataset(artifacts.store, name)
    with printer.counter("faces verified") as on_face:
        problems = verify_dataset(artifacts, dataset, on_face)
    for problem in problems[:BAD_SHOWN]:
        printer.note(problem)
    printer.facts({"name": name, "faces": dataset.manifest.kept, "problems": problems})
    if problems:
        raise StorageError(f"{name!r} in {artifacts.store.url} is damaged ({len(problems)} problems): import it again")
    printer.note(f"{name}: all {dataset.manifest.kept} faces are as they were imported")


@app.command()
def rm(
    name: Annotated[str, typer.Argument(help="An imported dataset.")],
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a dataset and its tensor caches; what was trained on it stays."""
    from orchestrator.datasets import remove_dataset

    printer, artifacts = Printer(json), open_artifacts(store)
    freed = remove_dataset(artifacts, name)
    printer.note(f"{name}: removed, {freed / 1e6:.1f} MB freed")
    printer.facts({"name": name, "freed_bytes": freed})


@app.command()
def ls(store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """List the datasets of the store."""
    from orchestrator.datasets import dataset_names, find_dataset

    printer, opened = Printer(json), open_artifacts(store).store
    datasets = [find_dataset(opened, name) for name in dataset_names(opened)]
    columns = ("name", "format", "faces", "identities", "poses", "expressions")
    printer.table(columns, [_row(dataset) for dataset in datasets])
    printer.facts({"store": opened.url, "datasets": [dict(zip(columns, _row(d), strict=True)) for d in datasets]})


def _refuse_local(source: str | None) -> None:
    from compgan_core.errors import ConfigurationError

    if source and "://" not in source and not Path(source).is_absolute():
        raise ConfigurationError(
            f"the cluster has no {source}: name a bucket, or the absolute path of a directory that it shares; "
            "without --address, faces of this machine are read here"
        )


def _row(dataset: Dataset) -> tuple[str, str, int, int, int, int]:
    m = dataset.manifest
    return m.name, m.format, m.kept, len(m.identities), len(m.poses), len(m.expressions)


def _describe(printer: Printer, dataset: Dataset) -> None:
    m = dataset.manifest
    printer.note(f"{m.name} ({m.format}): {m.kept} faces of {len(m.identities)} identities")
    for title in ("pose", "expression"):
        counts = dataset.counts[title]
        printer.table((title, "faces"), [(label or "(none)", count) for label, count in counts.items()])
    each = sorted(count for label, count in dataset.counts["identity"].items() if label)
    if each:
        printer.note(f"faces of an identity: {each[0]} to {each[-1]}, median {each[len(each) // 2]}")
    printer.note(f"read {m.read} = kept {m.kept} + quarantined {len(m.quarantined)} + duplicate {len(m.duplicates)}")
    for reason, count in m.excluded.items():
        printer.note(f"not read: {count} {reason}")
    if m.duplicates:
        printer.note(f"duplicate: {m.duplicates[0].key} of {m.duplicates[0].copy_of}, and so on")
    for bad in m.quarantined[:BAD_SHOWN]:
        printer.note(f"quarantined: {bad.key}: {bad.reason}")
    if len(m.quarantined) > BAD_SHOWN:
        printer.note(f"quarantined: {len(m.quarantined) - BAD_SHOWN} more, listed by --json")


def _facts(dataset: Dataset) -> dict[str, object]:
    return {"fingerprint": dataset.fingerprint, "counts": dataset.counts} | dataset.manifest.model_dump()
