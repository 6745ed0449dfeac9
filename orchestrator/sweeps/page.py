"""The page of a sweep: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compgan_core.variants import VARIANTS
from orchestrator.results import COLUMNS
from orchestrator.sweeps import charts
from orchestrator.sweeps.analysis import MIN_SEEDS, MIN_TRIALS, Difference, Interval, bootstrap, paired
from orchestrator.sweeps.findings import Findings
from orchestrator.templates import templates

TEMPLATE = "page.html.jinja"
WIDE, NARROW, PANEL = (9.0, 4.3), (4.2, 3.5), (2.3, 1.75)


class Tested(NamedTuple):
    """A row of the test table: one variant of one configuration."""

    title: str
    variant: str
    seeds: int
    measures: dict[str, tuple[float, Interval | None]]
    """Mean over seeds and its interval, in percent."""


def page(findings: Findings) -> str:
    """The whole HTML text."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {"signed": charts.signed, "interval": _interval, "duration": _unbroken_duration}
    return environment.get_template(TEMPLATE).render(
        f=findings,
        variants=VARIANTS,
        columns={key: title for key, title in COLUMNS.items() if f"{findings.variant}.{key}" in _measured(findings)},
        curves=_curves(findings),
        panels=_panels(findings),
        tested=_tested(findings),
        gain=_test_gain(findings),
        at=_scales(findings),
        fewest=min((len(line.by_seed) for line in findings.finished), default=0),
        min_seeds=MIN_SEEDS,
        min_trials=MIN_TRIALS,
    )


def duration(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `2 h 14 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _unbroken_duration(seconds: float) -> str:
    return duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def _interval(interval: Interval | None, signed: bool = False) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{charts.signed(low)} to {charts.signed(high)}" if signed else f"{low:.1f}–{high:.1f}"


def _measured(findings: Findings) -> set[str]:
    return {name for line in findings.lines for name in line.measures}


def _curves(findings: Findings) -> dict[str, str]:
    """CSS class -> chart."""
    if findings.curve is None:
        return {}
    best = findings.finished[0]
    label = (
        f"{findings.measure} against the number of synthesized faces; best {best.mean:.1f}% at {findings.name(best)}"
    )
    return {name: charts.svg(findings.curve, size, label) for name, size in (("wide", WIDE), ("narrow", NARROW))}


def _panels(findings: Findings) -> list[str]:
    return [
        charts.svg(charts.panels([effect], findings.baseline), PANEL, f"{findings.measure} against {effect.field}")
        for effect in findings.panels
    ]


def _tested(findings: Findings) -> list[Tested]:
    rows = []
    for title, results in findings.test.rows.items() if findings.test else ():
        for variant in results[0].metrics if results else ():
            by_measure = {key: [r.metrics[variant][key] for r in results] for key in results[0].metrics[variant]}
            measures = {key: (float(np.mean(values)), bootstrap(values)) for key, values in by_measure.items()}
            rows.append(Tested(title, variant, len(results), measures))
    return rows


def _test_gain(findings: Findings) -> Difference | None:
    """The first row of the test table against the second, by the metric of the sweep."""
    if findings.test is None or len(findings.test.rows) < 2:
        return None
    by_seed = [
        {r.seed: r.metrics[findings.variant][findings.head.metric] for r in rows}
        for rows in findings.test.rows.values()
    ]
    return paired(by_seed[0], by_seed[1])


def _scales(findings: Findings) -> dict[str, Callable[[float], str]]:
    """Where a number stands in the small bars of a table."""
    lines, differences = findings.finished, [change.difference for change in findings.changes]
    trends = [effect for effect in findings.panels if effect.interval]
    return {
        "lines": _scale(x for line in lines for x in (*line.by_seed.values(), *(line.interval or ()))),
        "changes": _scale(x for d in differences for x in (0, d.mean, *(d.interval or ()))),
        "trends": _scale(x for effect in trends for x in (0, effect.size, *(effect.interval or ()))),
    }


def _scale(numbers: Iterable[float]) -> Callable[[float], str]:
    """The numbers' range from 4% to 96% of a width."""
    known = list(numbers) or [0.0]
    low, span = min(known), max(known) - min(known) or 1.0
    return lambda x: f"{4 + 92 * (x - low) / span:.1f}%"
