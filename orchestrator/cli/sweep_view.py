"""The trials of a sweep while they run: a table on a terminal, a line at each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

SHOWN = 20
STYLES = {
    "running": "bold",
    "restarted": "yellow",
    "finished": "green",
    "failed": "red",
    "stopped": "yellow",
    "crashed": "red",
}

Event = Mapping[str, Any]


@dataclass
class Trial:
    """One row."""

    values: Mapping[str, str] = field(default_factory=dict)
    state: str = "running"
    seed: int = 0
    stage: str = ""
    percent: float = 0.0
    score: float | None = None
    message: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None

    @property
    def name(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


class TrialsTable:
    """All trials, in the order they began, kept up to date by events."""

    def __init__(self) -> None:
        self.trials: dict[str, Trial] = {}

    def update(self, event: Event) -> Trial | None:
        """Take in an event; the trial if it began or ended with it."""
        trial = self.trials.setdefault(event["trial"], Trial()) if "trial" in event else None
        if trial is None:
            return None
        if event["kind"] == "begin":
            trial.values, trial.state, trial.started = event["values"], "running", time.monotonic()
            return trial
        if event["kind"] == "trial" and event["state"] == "restarted":
            trial.state, trial.message = "restarted", event["message"]
            return trial
        if event["kind"] == "seed":
            trial.seed, trial.stage = event["seed"], ""
        elif event["kind"] == "stage":
            trial.stage, trial.percent = event["name"], 0.0
        elif event["kind"] == "progress":
            trial.percent = 100 * event["step"] / event["steps"]
        elif event["kind"] == "end" or (event["kind"] == "trial" and event["state"] in ("stopped", "crashed")):
            trial.state, trial.message = event["state"], event["message"]
            trial.score, trial.seconds = event.get("score", trial.score), time.monotonic() - trial.started
            return trial
        return None

    def __rich__(self) -> Table:
        table = Table("trial", "state", "seed", "stage", "score", "time", box=None, pad_edge=False)
        for trial in list(self.trials.values())[-SHOWN:]:
            running = trial.state == "running"
            stage = f"{trial.stage} {trial.percent:.0f}%" if running and trial.stage else ""
            table.add_row(
                trial.name,
                trial.state,
                str(trial.seed) if running else "",
                stage,
                "" if trial.score is None else f"{trial.score:.1f}",
                f"{trial.seconds or time.monotonic() - trial.started:.0f} s",
                style=STYLES[trial.state],
            )
        return table


@contextmanager
def watch_trials(console: Console) -> Iterator[Callable[[Event], None]]:
    """Show trials from their first event on while the block lasts; yields what to call with each event."""
    table = TrialsTable()
    live = Live(table, console=console, refresh_per_second=4) if console.is_terminal else None
    started: list[Live] = []

    def on_event(event: Event) -> None:
        changed = table.update(event)
        if event["kind"] == "log" and "trial" in event:
            console.print(f"{table.trials[event['trial']].name}: {event['message']}", markup=False, soft_wrap=True)
        if live and not started:
            started.append(live)
            live.start()
        if not live and changed:
            score = "" if changed.score is None else f", {changed.score:.1f}"
            console.print(f"{changed.name}: {changed.state}{score} {changed.message}".rstrip(), markup=False)

    try:
        yield on_event
    finally:
        if started and live:
            live.stop()
