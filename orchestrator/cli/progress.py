"""A run as it goes: the stages of the pipeline, and the present stage's step, speed, losses and time left.

Fed by events, which are plain dicts so that they can cross processes:
    {"kind": "stage", "name", "fingerprint", "state": "cached" | "running" | "done", "seconds"}
    {"kind": "progress", "step", "steps", "metrics": {name: number}}      of the stage that runs
    {"kind": "log", "message"}
`seconds` is None while a stage runs. The metric `images_per_s` is shown as the speed, others of `is_pace` are not
shown, and losses as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Event = Mapping[str, Any]
Clock = Callable[[], float]
PLAIN_LINE_EVERY_S = 15.0
STAGES_SHOWN = 14  # and with them the view fits 24 lines
FINISHED = ("cached", "done")
STATE_STYLES = {"waiting": "dim", "running": "yellow", "cached": "cyan", "done": "green"}


@dataclass
class Stage:
    """What is known of one stage. Times are those of the run's clock."""

    name: str
    state: str = "waiting"
    fingerprint: str = ""
    seconds: float | None = None
    started_at: float = 0.0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    first_report: tuple[int, float] = (0, 0.0)
    """(step, time); a resumed stage makes it at a later step than the first."""
    last_report: tuple[int, float] = (0, 0.0)

    @property
    def step(self) -> int:
        return self.last_report[0]

    def seconds_left(self, now: float) -> float | None:
        """At the mean speed since the first report of this run; None until there are two reports."""
        steps, seconds = (last - first for first, last in zip(self.first_report, self.last_report, strict=True))
        if steps <= 0 or seconds <= 0:
            return None
        return max(0.0, (self.steps - self.step) * seconds / steps - (now - self.last_report[1]))


class Run:
    """The stages of a run, in order, kept up to date by events."""

    def __init__(self, expected: Sequence[str] = (), clock: Clock = time.monotonic):
        """expected: names of the stages that will come, to show them before they start."""
        self.clock = clock
        self.stages = {name: Stage(name) for name in expected}
        self.current = Stage("")

    def update(self, event: Event) -> bool:
        """Take in a change of a stage or its progress. False if it is not news: every worker tells of every stage."""
        now = self.clock()
        if event["kind"] == "stage":
            stage = self.stages.setdefault(event["name"], Stage(event["name"]))
            if stage.state in (event["state"], *FINISHED):
                return False
            stage.state, stage.fingerprint, stage.seconds = event["state"], event["fingerprint"], event["seconds"]
            stage.started_at = now
            self.current = stage
            return True
        previous = self.current.step
        self.current.last_report = (event["step"], now)
        if not self.current.steps or event["step"] < previous:  # the first, or the first after a worker was lost
            self.current.first_report = self.current.last_report
        self.current.steps, self.current.metrics = event["steps"], dict(event["metrics"])
        return True

    def __rich__(self) -> RenderableType:
        stages, now = list(self.stages.values()), self.clock()
        place = stages.index(self.current) if self.current in stages else 0
        start = max(0, min(place - STAGES_SHOWN // 2, len(stages) - STAGES_SHOWN))
        shown = stages[start : start + STAGES_SHOWN]
        before, after = start, len(stages) - start - len(shown)
        return Group(
            *([Text(f"{before} stages before", style="dim")] if before else []),
            *(line for stage in shown for line in _lines(stage, now)),
            *([Text(f"{after} more", style="dim")] if after else []),
        )


@contextmanager
def watch(console: Console, expected: Sequence[str] = ()) -> Iterator[Callable[[Event], None]]:
    """Show a run while the block lasts; yields what to call with each event.

    A terminal gets a live view; a file or a pipe gets a line at each change of a stage and every 15 seconds.
    """
    run = Run(expected)
    live = console.is_terminal
    show = run.update if live else PlainLines(run, console)

    def on_event(event: Event) -> None:
        if event["kind"] == "log":
            console.print(event["message"], markup=False, soft_wrap=True)
        elif event["kind"] in ("stage", "progress"):
            show(event)

    with Live(run, console=console, refresh_per_second=4) if live else nullcontext():
        yield on_event


class PlainLines:
    """The run as lines that are written once."""

    def __init__(self, run: Run, console: Console):
        self.run, self.console = run, console
        self.next_line_at = 0.0

    def __call__(self, event: Event) -> None:
        if not self.run.update(event):
            return
        stage, now = self.run.current, self.run.clock()
        if event["kind"] == "stage":
            line = f"{stage.name}: {stage.state} {stage.fingerprint[:8]} {duration(stage.seconds)}"
        elif now >= self.next_line_at:
            line = f"{stage.name}: {progress_line(stage, now)}, {metrics_line(stage)}"
        else:
            return
        self.next_line_at = now + PLAIN_LINE_EVERY_S
        self.console.print(line.rstrip(" ,"), markup=False, soft_wrap=True)


def _lines(stage: Stage, now: float) -> Iterator[RenderableType]:
    style = STATE_STYLES[stage.state]
    seconds = now - stage.started_at if stage.state == "running" else stage.seconds
    row = Table.grid(padding=(0, 2), expand=False)
    row.add_column(width=7, style=style)
    row.add_column(width=24, style="bold" if stage.state == "running" else "", no_wrap=True)
    row.add_column(width=8, style="dim")
    row.add_column(width=8, justify="right")
    row.add_row(stage.state, stage.name, stage.fingerprint[:8], duration(seconds))
    yield row
    if stage.state == "running" and stage.steps:
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(total=stage.steps, completed=stage.step, width=22), progress_line(stage, now))
        yield Padding(bar, (0, 0, 0, 9))
        yield Padding(Text(metrics_line(stage), style="dim"), (0, 0, 0, 9))


class Moving(Protocol):
    """A stage under way, as this run or the ledger of another knows it."""

    @property
    def step(self) -> int: ...

    steps: int
    metrics: dict[str, float]

    def seconds_left(self, now: float) -> float | None: ...


def progress_line(stage: Moving, now: float) -> str:
    """`step 250/1000, 312 images/s, 3:00 left`."""
    parts = [f"step {stage.step}/{stage.steps}"]
    if "images_per_s" in stage.metrics:
        parts.append(f"{stage.metrics['images_per_s']:.0f} images/s")
    left = stage.seconds_left(now)
    if left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def metrics_line(stage: Moving) -> str:
    """The newest values by name."""
    return "  ".join(f"{name} {value:.4g}" for name, value in stage.metrics.items() if not is_pace(name))


def is_pace(metric: str) -> bool:
    """Whether it says how the loop runs, not what it learns."""
    return metric == "images_per_s" or metric.startswith(("seconds_", "lr_"))


def parts_line(metrics: Mapping[str, float]) -> str:
    """`a step 41 ms: backward 55%, forward 38%, data 7%`; nothing if it is not known."""
    parts = {name.removeprefix("seconds_"): value for name, value in metrics.items() if name.startswith("seconds_")}
    total = sum(parts.values())
    shares = [(f"{name} {value / total:.0%}", value) for name, value in parts.items() if value > 0.005 * total > 0]
    shown = ", ".join(text for text, _ in sorted(shares, key=lambda share: -share[1]))
    return f"a step {1000 * total:.3g} ms: {shown}" if shown else ""


def duration(seconds: float | None) -> str:
    """`7.1 s`, `3:05`, `2:00:00`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
