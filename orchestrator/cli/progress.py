"""A run while it is driven: the view of `orch watch` on a terminal, lines elsewhere. Fed by events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.live import Live

from orchestrator.cli.run_view import RunView, duration, metrics_line, progress_line
from orchestrator.monitor.runs import Event, Status, StatusOf

PLAIN_LINE_EVERY_S = 15.0


@contextmanager
def watch(console: Console, expected: Sequence[str] = ()) -> Iterator[Callable[[Event], None]]:
    """Show a run while the block lasts; yields what to call with each event.

    expected: names of the stages that will come, to show them before they start. A terminal gets a live view; a file or
    a pipe gets a line at each change of a stage and every 15 seconds.
    """
    kept, plain = StatusOf(dict.fromkeys(expected, "waiting")), PlainLines(console)
    live = console.is_terminal

    def on_event(event: Event) -> None:
        now = time.time()
        kept.update(event, now)
        if event["kind"] == "log":
            console.print(event["message"], markup=False, soft_wrap=True)
        elif not live:
            plain(kept.status, now)

    def view() -> RunView:
        return RunView(None, kept.status, time.time())

    with Live(get_renderable=view, console=console, refresh_per_second=4) if live else nullcontext():
        yield on_event


class PlainLines:
    """A run as lines that are written once, however often it is looked at."""

    def __init__(self, console: Console):
        self.console = console
        self._told: dict[str, str] = {}
        self._next_line_at = 0.0

    def __call__(self, status: Status, now: float) -> None:
        for name, stage in status.stages.items():
            if stage.state != "waiting" and self._told.get(name) != stage.state:
                self._told[name] = stage.state
                self.say(f"{name}: {stage.state} {duration(stage.seconds)}")
        current = status.stages.get(status.current)
        if current and current.state == "running" and current.steps and now >= self._next_line_at:
            self._next_line_at = now + PLAIN_LINE_EVERY_S
            self.say(f"{status.current}: {progress_line(current, now)}, {metrics_line(current)}")

    def say(self, line: str) -> None:
        self.console.print(line.rstrip(" ,"), markup=False, soft_wrap=True)
