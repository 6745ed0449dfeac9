"""`orch watch`: a live view of a run, wherever it runs. It reads the store and nothing else."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DEFAULT_STORE, Run, Store, open_artifacts
from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from orchestrator.monitor.runs import RunHead, Runs, Status


def watch(
    run: Run = None,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks into the store.")] = 2.0,
    store: Store = DEFAULT_STORE,
) -> None:
    """Watch a run until it ends; q or Ctrl-C detaches, and disturbs nothing. Into a pipe, plain lines."""
    from orchestrator.monitor.runs import Runs

    printer, runs = Printer(), Runs(open_artifacts(store).store)
    head = runs.find(run)
    try:
        show = live if printer.console.is_terminal else _plain
        show(printer.console, runs, head, every)
    except KeyboardInterrupt:
        printer.note(f"detached; run {head.id} goes on")


def live(console: Console, runs: Runs, head: RunHead, every: float) -> None:
    """Show a run on a terminal until it has ended. Raises KeyboardInterrupt at q."""
    from rich.live import Live

    from orchestrator.cli.run_view import RunView

    faces = _Faces(runs)
    status = runs.status(head.id)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while status.seen(time.time()) == "running":
            live.update(RunView(head, status, time.time(), faces(status)), refresh=True)
            if pressed(every) == "q":
                raise KeyboardInterrupt
            status = runs.status(head.id)
    console.print(RunView(head, status, time.time(), faces(status)))


def _plain(console: Console, runs: Runs, head: RunHead, every: float) -> None:
    from orchestrator.cli.progress import PlainLines

    lines = PlainLines(console)
    while True:
        status, now = runs.status(head.id), time.time()
        lines(status, now)
        if status.seen(now) != "running":
            return lines.say(f"run {head.id}: {status.seen(now)} {status.error}")
        time.sleep(every)


class _Faces:
    """The newest picture, fetched once."""

    def __init__(self, runs: Runs):
        self.runs, self.key = runs, ""
        self.image: Image.Image | None = None

    def __call__(self, status: Status) -> Image.Image | None:
        from PIL import Image

        if status.faces and status.faces.key != self.key:
            self.key = status.faces.key
            self.image = Image.open(io.BytesIO(self.runs.store.get_bytes(self.key)), formats=["JPEG"])
        return self.image


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yields what waits for a key for some seconds; "" if none was pressed."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def pressed(seconds: float) -> str:
        return os.read(keyboard, 1).decode(errors="ignore") if select.select([keyboard], [], [], seconds)[0] else ""

    try:
        tty.setcbreak(keyboard)
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
