"""A run on a terminal of any size, from its ledger alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from orchestrator.monitor.runs import RunHead, StageStatus, Status

STATE_STYLES = {"waiting": "dim", "running": "yellow", "cached": "cyan", "done": "green"}
SEEN_STYLES = {"running": "yellow", "done": "green", "failed": "red", "interrupted": "red", "lost": "red"}
BLOCKS = "▁▂▃▄▅▆▇█"
SIDE_BY_SIDE = 140  # columns from which on the metrics stand beside the stages
HEADER, FOOTER, NAME = 4, 1, 24
FACES_AT_LEAST = 12  # lines below which a picture shows nothing


class RunView:
    """What `orch watch` shows; it fills the height it is given, or takes what it needs if it is given none.

    head: without it only the stages, the metrics and the log are shown.
    """

    def __init__(self, head: RunHead | None, status: Status, now: float, faces: Image.Image | None = None):
        self.head, self.status, self.now, self.faces = head, status, now, faces

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        body = max(4, height - HEADER - FOOTER)
        wide = width >= SIDE_BY_SIDE
        left = width // 2 - 2 if wide else width
        logged = self._log(left, min(len(self.status.lines), max(1, body // 6)))
        metrics = self._metrics(width - left - 4 if wide else width)
        about_faces = self._about_faces(width - left - 4 if wide else width)
        if wide:
            first = [*self._stages(left, body - len(logged) - 1), Text(""), *logged]
            second = [*metrics[: body - len(about_faces)], *about_faces]
            second += self._drawn(width - left - 4, body - len(second)) if console.color_system else []
            lines = [_beside(first, second, i, left) for i in range(max(len(first), len(second)))]
        else:
            metrics = metrics[: max(2, body // 3)]
            rest = body - len(metrics) - len(logged) - len(about_faces)
            stages = self._stages(width, rest)
            lines = [*stages, *metrics, *about_faces, *logged]
            lines += self._drawn(width, body - len(lines)) if console.color_system else []
        for line in (*(self._header(self.head, width) if self.head else ()), *lines):
            line.truncate(width, overflow="ellipsis")
            yield line
        if self.head:
            yield Text("q or Ctrl-C detaches; the run goes on", style="dim")

    def _header(self, head: RunHead, width: int) -> list[Text]:
        status, now = self.status, self.now
        seen = status.seen(now)
        first = Text.assemble(
            (head.id, "bold"), "  ", (seen, SEEN_STYLES[seen]), f"  {duration(head.seconds(status, now))}"
        )
        cost = head.cost(status, now)
        if cost is not None:
            first.append(f"  cost {cost:.2f}")
        if seen == "lost":
            first.append(f"  no sign of life for {duration(now - status.updated_at)}", "red")
        facts = []
        if status.workers:
            hosts, devices = {w.host for w in status.workers}, {w.device for w in status.workers}
            facts.append(
                f"{_count(len(status.workers), 'worker')} on {_count(len(hosts), 'machine')} ({', '.join(devices)})"
            )
        saved = status.checkpoint
        if saved:
            age = duration(now - saved.at)
            facts.append(f"checkpoint {age} ago: {saved.stage} at {saved.step}, {saved.size_bytes / 1e6:.1f} MB")
        error = [Text(status.error, "red")] if status.error else [Text(" · ".join(facts) or "no worker yet", "dim")]
        return [first, Text(head.description, "dim"), *error, Text("")]

    def _stages(self, width: int, height: int) -> list[Text]:
        """As many as fit, around the present one, whose progress takes a line more."""
        names = list(self.status.stages)
        current = self.status.current
        place = names.index(current) if current in names else 0
        room = max(1, height - 3)
        start = max(0, min(place - room // 2, len(names) - room))
        shown = names[start : start + room]
        lines: list[Text] = [Text(f"{_count(start, 'stage')} before", "dim")] if start else []
        for name in shown:
            lines += self._stage(name, self.status.stages[name], width)
        after = len(names) - start - len(shown)
        return [*lines, *([Text(f"{after} more", "dim")] if after else [])]

    def _stage(self, name: str, stage: StageStatus, width: int) -> list[Text]:
        seconds = self.now - stage.started_at if stage.state == "running" else stage.seconds
        running = stage.state == "running"
        line = Text.assemble(
            (f"{stage.state:8} ", STATE_STYLES[stage.state]),
            (f"{name:26}", "bold" if running else ""),
            f"{duration(seconds):>9}",
        )
        if not (running and stage.steps):
            return [line]
        cells = min(40, width // 4)
        filled = cells * stage.step // stage.steps
        return [
            line,
            Text.assemble(
                ("━" * filled, "yellow"), ("━" * (cells - filled), "dim"), f"  {progress_line(stage, self.now)}"
            ),
        ]

    def _metrics(self, width: int) -> list[Text]:
        """One line each: name, newest value, and its course."""
        stage = self.status.stages.get(self.status.current)
        if stage is None:
            return []
        parts = parts_line(stage.metrics)
        lines = [Text(parts, "dim")] if parts else []
        for name, value in stage.metrics.items():
            if is_pace(name):
                continue
            course = [row[name] for row in self.status.history if name in row]
            lines.append(
                Text.assemble(
                    (f"{name:{NAME}.{NAME}} ", "dim"),
                    f"{value:>9.4g}  ",
                    (spark(course, max(8, min(80, width - NAME - 14))), "cyan"),
                )
            )
        return lines

    def _about_faces(self, width: int) -> list[Text]:
        faces = self.status.faces
        return [Text(f"faces at step {faces.step}: {faces.key}", "dim")] if faces else []

    def _log(self, width: int, count: int) -> list[Text]:
        return [
            Text(f"{line.stage or '-'}{'' if line.rank is None else f' rank {line.rank}'}: {line.message}", "dim")
            for line in self.status.lines[len(self.status.lines) - count :]
        ]

    def _drawn(self, width: int, height: int) -> list[Text]:
        if self.faces is None or height < FACES_AT_LEAST:
            return []
        return drawn(self.faces, width, height)


def drawn(image: Image.Image, width: int, height: int) -> list[Text]:
    """A picture as at most `height` lines of at most `width` half blocks: one pixel is ink, one paper."""
    scale = min(width / image.width, 2 * height / image.height)
    columns, rows = max(1, int(image.width * scale)), max(2, int(image.height * scale) // 2 * 2)
    pixels = np.asarray(image.convert("RGB").resize((columns, rows), Image.Resampling.BOX)).tolist()
    pairs = zip(pixels[::2], pixels[1::2], strict=True)
    return [
        Text.assemble(*(("▀", Style.from_color(_colour(a), _colour(b))) for a, b in zip(upper, lower, strict=True)))
        for upper, lower in pairs
    ]


def spark(values: Sequence[float], width: int) -> str:
    """A series in block characters, from its smallest to its largest value; the mean of what falls on one place."""
    if len(values) < 2:
        return ""
    places = min(width, len(values))
    edges = [round(i * len(values) / places) for i in range(places + 1)]
    means = [sum(part) / len(part) for part in (values[a:b] for a, b in pairwise(edges))]
    low, high = min(means), max(means)
    span = high - low if high - low > 1e-6 * abs(high) else float("inf")  # else sums of equal numbers are no course
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1))] for mean in means)


def progress_line(stage: StageStatus, now: float) -> str:
    """`step 250/1000, 312 images/s, 3:00 left`."""
    parts = [f"step {stage.step}/{stage.steps}"]
    if "images_per_s" in stage.metrics:
        parts.append(f"{stage.metrics['images_per_s']:.0f} images/s")
    left = stage.seconds_left(now)
    if left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def metrics_line(stage: StageStatus) -> str:
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


def _beside(first: Sequence[Text], second: Sequence[Text], i: int, left: int) -> Text:
    line = first[i].copy() if i < len(first) else Text()
    line.truncate(left, overflow="ellipsis", pad=True)
    return line.append("    ").append_text(second[i]) if i < len(second) else line


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _colour(pixel: Sequence[int]) -> Color:
    return Color.from_rgb(*pixel)
