"""The charts of a sweep: as PNG files, and as SVG whose colours are those of the page around it."""

from __future__ import annotations

import html
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orchestrator.sweeps.analysis import Effect, Interval, Line, number
from orchestrator.sweeps.space import COUNT

Size = tuple[float, float]
"""Width and height in inches."""
Draw = Callable[[Any], None]
"""Draws on a matplotlib Figure."""

PAPER, INK, MUTED, RULE, ACCENT = "#fafaf8", "#282a30", "#5f636b", "#dcdcd6", "#006e5a"
VARIABLES = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent"}
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": PAPER,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.left": False,
}
PANELS_A_ROW = 4
LONG = 20  # letters that the title of a panel has room for
DASHED = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}
DOT = {"color": MUTED, "alpha": 0.55, "markersize": 3, "markeredgewidth": 0}


class Bar(NamedTuple):
    """A row of `bars`."""

    label: str
    mean: float
    interval: Interval | None
    seeds: Sequence[float] = ()


def png(draw: Draw, size: Size, path: Path) -> None:
    """Write a chart."""
    with _figure(draw, size) as figure:
        figure.savefig(path, dpi=160)


def svg(draw: Draw, size: Size, label: str) -> str:
    """The chart as an `<svg>` element, for a page that defines the CSS variables of `VARIABLES`.

    label: what a screen reader says instead.
    """
    buffer = io.StringIO()
    with _figure(draw, size, salt=f"{label} {size}") as figure:
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    text = re.sub(r'(?<=<g) id="[^"]*"|font-family:[^;"]*;|<style.*?</style>', "", buffer.getvalue())
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    width, height = (round(72 * side) for side in size)
    body = re.sub(r"^.*?<svg[^>]*>", "", text, flags=re.DOTALL)
    return f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}">{body}'


def signed(value: float, digits: int = 1) -> str:
    """`+1.5`, `−1.5` with a sign of the width of `+`, or `0.0`."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def curve(lines: Sequence[Line], best: Line, reference: float | None, what: str) -> Draw:
    """Accuracy against the number of synthesized faces, on a log axis that shows 0.

    The settings of the other fields that `best` has are drawn with interval and seeds, all others as thin lines.
    reference: accuracy of the baseline, in percent. what: title of the axis of accuracy.
    """
    groups: dict[tuple[str, ...], list[tuple[float, Line]]] = defaultdict(list)
    for line in lines:
        count = number(line.values[COUNT])
        if line.mean is not None and count is not None and line.state == "finished":
            groups[_others(line)].append((count, line))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for others, points in groups.items():
            points.sort(key=lambda point: point[0])
            if others != _others(best):
                axes.plot(
                    [c for c, _ in points], [line.mean for _, line in points], color=MUTED, alpha=0.5, linewidth=0.8
                )
        _with_seeds(axes, groups[_others(best)])
        if reference is not None:
            axes.axhline(reference, **DASHED)
        counts = sorted({count for points in groups.values() for count, _ in points})
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xticks(counts, [f"{count:g}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.set_xlim(counts[0] * 0.85 or -0.25, counts[-1] * 1.15)
        axes.set_xlabel("synthesized faces of each category")
        axes.set_ylabel(what)

    return draw


def panels(effects: Sequence[Effect], baseline: Line | None) -> Draw:
    """Small multiples: one panel an effect, all over the same configurations, so with the same axis of accuracy."""
    columns = min(PANELS_A_ROW, len(effects))
    rows = -(-len(effects) // columns)

    def draw(figure: Any) -> None:
        for i, effect in enumerate(effects):
            axes = figure.add_subplot(rows, columns, i + 1)
            _panel(axes, effect, baseline.values[effect.field] if baseline else "")

    return draw


def bars(rows: Sequence[Bar], reference: float | None, what: str) -> Draw:
    """Horizontal bars from one end of an interval to the other, with the mean and the seeds as dots."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.use_sticky_edges = False
        for y, row in enumerate(rows):
            if row.interval:
                axes.barh(y, row.interval.high - row.interval.low, 0.55, row.interval.low, color=ACCENT, alpha=0.22)
            axes.plot(row.seeds, [y] * len(row.seeds), "o", color=ACCENT, alpha=0.45, markersize=2.6, markeredgewidth=0)
            axes.plot([row.mean], [y], "o", color=ACCENT, markersize=5)
        if reference is not None:
            axes.axvline(reference, **DASHED)
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(what)

    return draw


def _others(line: Line) -> tuple[str, ...]:
    return tuple(value for field, value in line.values.items() if field != COUNT)


def _with_seeds(axes: Any, points: Sequence[tuple[float, Line]]) -> None:
    counts = [count for count, _ in points]
    intervals = [(count, *line.interval) for count, line in points if line.interval]
    if intervals:
        at, low, high = zip(*intervals, strict=True)
        axes.fill_between(at, low, high, color=ACCENT, alpha=0.14, linewidth=0)
    for count, line in points:
        seeds = list(line.by_seed.values())
        axes.plot([count] * len(seeds), seeds, "o", color=ACCENT, alpha=0.4, markersize=3, markeredgewidth=0)
    axes.plot(counts, [line.mean for _, line in points], "o-", color=ACCENT, linewidth=1.8, markersize=4)


def _panel(axes: Any, effect: Effect, baseline: str) -> None:
    places, numeric = _places(effect)
    means = [mean for _, mean in effect.points]
    axes.plot([places[value] for value, _ in effect.points], means, "o", **DOT)
    margin = 0.06 * (max(means) - min(means)) or 0.5
    axes.set_ylim(min(means) - margin, max(means) + margin)  # not those of the line, which differs between panels
    low, high = min(places.values()), max(places.values())
    if numeric and low > 0:
        axes.set_xscale("log", base=2)
    if effect.trend:
        if effect.trend.interval:  # else there are too few configurations for a line to mean anything
            at = np.geomspace(low, high) if low > 0 else np.linspace(low, high)
            colour = ACCENT if effect.trend.clear else MUTED
            axes.plot(at, [effect.trend.at(value) for value in at], color=colour, linewidth=1.8)
        axes.set_xticks([low, high], [f"{low:.3g}", f"{high:.3g}"])
    else:
        axes.plot(list(places.values()), [level.mean for level in effect.levels], "o-", color=ACCENT, markersize=4)
        axes.set_xticks(list(places.values()), list(places))
    axes.set_xticks([], minor=True)
    if baseline in places or (numeric and number(baseline) is not None):
        axes.axvline(places.get(baseline, number(baseline)), **DASHED)
    shown = effect.field if len(effect.field) <= LONG else f"…{effect.field[1 - LONG :]}"
    axes.set_title(shown, loc="left", color=INK)
    if not effect.trend or effect.trend.interval:
        axes.set_title(signed(effect.size) if effect.trend else f"{effect.size:.1f}", loc="right", color=MUTED)


def _places(effect: Effect) -> tuple[dict[str, float], bool]:
    """Where each value stands on the axis, and whether that is its number."""
    values = [value for value, _ in effect.points]
    numbers = {value: number(value) for value in values}
    known = {value: found for value, found in numbers.items() if found is not None}
    if len(known) == len(numbers):
        return known, True
    return {value: float(i) for i, value in enumerate(dict.fromkeys(values))}, False


@contextmanager
def _figure(draw: Draw, size: Size, salt: str = "") -> Iterator[Any]:
    """salt: makes the ids of an SVG its own, as several stand in one page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=size)
        draw(figure)
        yield figure
