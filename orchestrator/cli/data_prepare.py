"""`orch data prepare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from orchestrator.prepare.prepare import Summary

SHOWN = 10


def prepare(
    source: Annotated[
        str,
        typer.Argument(help="Photographs and clips: a directory or an archive, of this machine or s3://bucket/prefix."),
    ],
    output: Annotated[Path, typer.Argument(help="The directory to make, a labelled tree for `orch data import`.")],
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            metavar="PATTERN|CSV",
            help="Where the names have the labels, of {identity} {pose} {expression} {sequence} {frame} {partition}; "
            "* is anything. Or a CSV file with the column file and any of these.",
        ),
    ] = "{identity}/{pose}/{expression}/{sequence}",
    every: Annotated[int, typer.Option("--every", min=1, help="Of a clip, take one of so many frames.")] = 12,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A directory with other MTCNN networks: pnet.onnx, rnet.onnx and onet.onnx."),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default one a core.")] = None,
    json: Json = False,
) -> None:
    """Find, align and crop the faces of photographs and clips: 256 x 256, eyes level.

    Of several faces the largest is taken. The same command goes on where it was stopped.
    """
    from orchestrator.bucket_source import open_anywhere
    from orchestrator.prepare.prepare import prepare

    printer = Printer(json)
    with printer.counter("files prepared") as on_file:
        summary = prepare(
            open_anywhere(source),
            output,
            labels=labels,
            every_frames=every,
            networks=model,
            workers=workers or len(os.sched_getaffinity(0)),
            on_file=on_file,
        )
    _describe(printer, summary, output)
    printer.facts({"output": output} | summary.model_dump())


def _describe(printer: Printer, summary: Summary, output: Path) -> None:
    printer.note(f"read {summary.read} = kept {summary.kept} + quarantined {len(summary.quarantined)}")
    for reason, count in summary.not_read.items():
        printer.note(f"not read: {count} {reason}")
    for bad in summary.quarantined[:SHOWN]:
        place = bad.source if bad.frame is None else f"{bad.source}, frame {bad.frame}"
        printer.note(f"quarantined: {place}: {bad.reason}")
    if len(summary.quarantined) > SHOWN:
        printer.note(f"quarantined: {len(summary.quarantined) - SHOWN} more, listed in {output / 'prepared.json'}")
    printer.note(f"{output}: now `orch data import labelled-tree {output} --name NAME`")
