"""The `orch` command.

A new command is a file beside this one and two lines here: its import and its registration. A command file imports
only `typer`, `options` and `output` at its top; what does the work is imported inside the function, so that help comes
at once.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from typing import Annotated

import typer

from compgan_core.errors import CompganError
from orchestrator.cli import (
    cluster,
    dashboard,
    data,
    demo,
    doctor,
    housekeeping,
    report,
    reproduce,
    runs,
    store,
    sweep,
    train,
    watch,
)

app = typer.Typer(
    help="Train Comp-GAN on labelled faces in a bucket, on a Ray cluster of any size.",
    epilog="Exit codes: 0 done, 2 configuration or data, 3 storage, 4 capacity, 6 divergence, 70 internal, 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train.train)
app.command()(train.plan)
app.command()(demo.demo)
app.command()(runs.ls)
app.command()(runs.show)
app.command()(runs.logs)
app.command()(runs.stop)
app.command()(watch.watch)
app.command()(report.report)
app.command()(dashboard.dashboard)
app.command()(reproduce.reproduce)
app.add_typer(data.app, name="data")
app.add_typer(sweep.app, name="sweep")
app.add_typer(store.app, name="store")
app.add_typer(cluster.app, name="cluster")
app.command()(doctor.doctor)
app.command()(housekeeping.gc)
app.command()(housekeeping.repair)


@app.callback()
def _before_any_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """`main` reads --debug itself: it must know even when nothing else could be parsed."""


def main() -> None:
    """Run `orch`. A failure is one sentence on stderr, and its kind is the exit code."""
    arguments = sys.argv[1:]
    try:
        app()
    except Exception as error:
        if arguments[:1] == ["--debug"]:
            traceback.print_exc()
        elif isinstance(error, CompganError):
            print(f"orch: {error}", file=sys.stderr)
        else:
            again = shlex.join(["orch", "--debug", *arguments])
            print(f"orch: {type(error).__name__}: {error} (a defect; for its traceback run `{again}`)", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, CompganError) else CompganError.exit_code)
