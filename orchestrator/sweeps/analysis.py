"""Numbers from a sweep's records alone: the leaderboard, and what each field does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel

from compgan_core.randomness import generator
from orchestrator.sweeps.ledger import SweepHead, TrialRecord

MIN_SEEDS = 3
MIN_TRIALS = 8  # for the interval of a slope
MAX_LEVELS = 12
RESAMPLES = 10_000
ORDER = ("finished", "stopped", "failed")


class Interval(NamedTuple):
    """95%, by percentile bootstrap."""

    low: float
    high: float


class Difference(BaseModel, frozen=True, extra="forbid"):
    """A configuration minus the baseline over the seeds that both have, in percentage points."""

    mean: float
    interval: Interval | None
    seeds: int


class Line(BaseModel, frozen=True, extra="forbid"):
    """One configuration of the leaderboard. Accuracies are in percent."""

    key: str
    values: dict[str, str]
    """Every swept field, in the order of the sweep."""
    state: Literal["finished", "stopped", "failed"]
    by_seed: dict[int, float]
    mean: float | None
    """Over seeds; None before the first seed is done."""
    deviation: float | None
    """Sample standard deviation over seeds; None for fewer than two."""
    interval: Interval | None
    """Of the mean over seeds; None for fewer than `MIN_SEEDS`."""
    difference: Difference | None
    """To the baseline; None for the baseline itself, without one, and without a common seed."""
    measures: dict[str, float]
    """Means over seeds of all that was measured, by `variant.measure`."""
    seconds: float
    tries: int
    failure: str


class Level(BaseModel, frozen=True, extra="forbid"):
    """One value of a field: the mean of the configurations that have it."""

    value: str
    mean: float
    configurations: int


class Trend(BaseModel, frozen=True, extra="forbid"):
    """A straight line through the configurations, over log2 of the value where all values are positive."""

    correlation: float
    """Spearman's, of value and accuracy."""
    per: Literal["doubling", "unit"]
    slope: float
    """Percentage points a doubling, or a unit, of the value."""
    intercept: float
    span: float
    """Doublings, or units, from the least value tried to the greatest."""
    interval: Interval | None
    """Of the slope, over resampled configurations; None for fewer than `MIN_TRIALS`."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)

    def at(self, value: float) -> float:
        """The line's height at a value, in percent."""
        return self.intercept + self.slope * (math.log2(value) if self.per == "doubling" else value)


class Effect(BaseModel, frozen=True, extra="forbid"):
    """What a swept field does: levels where its values recur, as in a grid; a trend where each is its own."""

    field: str
    points: tuple[tuple[str, float], ...]
    """(value, accuracy) of each finished configuration, by value."""
    levels: tuple[Level, ...]
    trend: Trend | None

    @property
    def size(self) -> float:
        """Percentage points from the least value tried to the greatest; from the worst level to the best."""
        if self.trend:
            return self.trend.slope * self.trend.span
        means = [level.mean for level in self.levels]
        return max(means) - min(means)

    @property
    def interval(self) -> Interval | None:
        """Of the size of a trend."""
        if self.trend is None or self.trend.interval is None:
            return None
        return Interval(*(end * self.trend.span for end in self.trend.interval))


class Change(BaseModel, frozen=True, extra="forbid"):
    """A few fields at other values than the baseline's, all else equal."""

    key: str
    values: dict[str, str]
    """Of the fields that differ."""
    difference: Difference

    @property
    def name(self) -> str:
        """`without lambda.exp and mu.exp`, or `lambda.exp=5`."""
        if set(self.values.values()) == {"0"}:
            return f"without {' and '.join(self.values)}"
        return ", ".join(f"{field}={value}" for field, value in self.values.items())


def leaderboard(
    head: SweepHead,
    trials: Iterable[TrialRecord],
    variant: str,
    measure: str,
    baseline: Mapping[str, str] | None = None,
) -> list[Line]:
    """Finished configurations, best first; then those that were stopped, then those that failed.

    baseline: values of the configuration that the others are compared with, seed by seed.
    """
    lines = [_line(head, trial, variant, measure) for trial in trials]
    reference = baseline_of(lines, baseline)
    if reference:
        others = {line.key: paired(line.by_seed, reference.by_seed) for line in lines if line is not reference}
        lines = [line.model_copy(update={"difference": others.get(line.key)}) for line in lines]
    best_first = sorted(lines, key=lambda line: (line.mean is None, -(line.mean or 0), line.key))
    return sorted(best_first, key=lambda line: ORDER.index(line.state))


def baseline_of(lines: Iterable[Line], baseline: Mapping[str, str] | None) -> Line | None:
    """The finished line with the baseline's values, if there is one."""
    return next((line for line in lines if line.values == baseline and line.state == "finished"), None)


def main_effects(lines: Iterable[Line]) -> list[Effect]:
    """The effect of every field that took two values or more in finished configurations, the largest first."""
    finished = [(line.values, line.mean) for line in lines if line.state == "finished" and line.mean is not None]
    values = {field: [(v[field], mean) for v, mean in finished] for field in (finished[0][0] if finished else ())}
    varied = {field: points for field, points in values.items() if len({value for value, _ in points}) > 1}
    effects = [_effect(field, points, alone=len(varied) == 1) for field, points in varied.items()]
    return sorted(effects, key=lambda effect: -abs(effect.size))


def changes(lines: Sequence[Line], baseline: Line | None) -> list[Change]:
    """What each single change does, the most harmful first; empty unless the sweep is an ablation.

    It is one when the configurations change different fields of the baseline, and no two of them overlap in part.
    """
    if baseline is None:
        return []
    changed = {
        line.key: {field: value for field, value in line.values.items() if value != baseline.values[field]}
        for line in lines
        if line.key != baseline.key
    }
    groups = {tuple(values) for values in changed.values()}
    if len(groups) < 2 or sum(map(len, groups)) > len({field for group in groups for field in group}):
        return []
    finished = [line for line in lines if line.state == "finished"]
    found = [Change(key=x.key, values=changed[x.key], difference=x.difference) for x in finished if x.difference]
    return sorted(found, key=lambda change: change.difference.mean)


def paired(results: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Results minus the baseline's over the seeds that both have; None where they have none. Both: seed -> percent."""
    both = [value - baseline[seed] for seed, value in results.items() if seed in baseline]
    return Difference(mean=float(np.mean(both)), interval=bootstrap(both), seeds=len(both)) if both else None


def bootstrap(values: Sequence[float]) -> Interval | None:
    """95% percentile interval of the mean; None for fewer than `MIN_SEEDS`. The same values give the same interval.

    Of 3 values it is their range, which holds the true mean about three times in four, not nineteen in twenty.
    """
    n = len(values)
    if n < MIN_SEEDS:
        return None
    draws = generator(0, "bootstrap", n).integers(n, size=(RESAMPLES, n))
    return _middle(np.asarray(values)[draws].mean(axis=1))


def number(text: str) -> float | None:
    """The value of a field as a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _line(head: SweepHead, trial: TrialRecord, variant: str, measure: str) -> Line:
    by_seed = {r.seed: r.metrics[variant][measure] for r in sorted(trial.results, key=lambda r: r.seed)}
    values = list(by_seed.values())
    every = defaultdict(list)
    for result in trial.results:
        for name, measures in result.metrics.items():
            for key, value in measures.items():
                every[f"{name}.{key}"].append(value)
    return Line(
        key=trial.key,
        values={field: trial.values[field] for field in head.fields},
        state=trial.state,
        by_seed=by_seed,
        mean=float(np.mean(values)) if values else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        interval=bootstrap(values),
        difference=None,
        measures={name: float(np.mean(found)) for name, found in every.items()},
        seconds=trial.seconds,
        tries=trial.tries,
        failure=trial.failure,
    )


def _effect(field: str, points: list[tuple[str, float]], alone: bool) -> Effect:
    """alone: no other field was varied, so that values need not recur to be levels."""
    numbers = [number(value) for value, _ in points]
    numeric = None not in numbers
    if numeric:
        points = sorted(points, key=lambda point: float(point[0]))
    else:
        points = sorted(points)
    by_value: dict[str, list[float]] = defaultdict(list)
    for value, mean in points:
        by_value[value].append(mean)
    recurring = alone or len(points) >= 2 * len(by_value)
    if numeric and (len(by_value) > MAX_LEVELS or not recurring):
        return Effect(field=field, points=tuple(points), levels=(), trend=_trend(points))
    levels = (Level(value=v, mean=float(np.mean(m)), configurations=len(m)) for v, m in by_value.items())
    return Effect(field=field, points=tuple(points), levels=tuple(levels), trend=None)


def _trend(points: Sequence[tuple[str, float]]) -> Trend:
    x, y = np.array([float(value) for value, _ in points]), np.array([mean for _, mean in points])
    positive = bool((x > 0).all())
    x = np.log2(x) if positive else x
    (slope,) = _slopes(x[None], y[None])
    n = len(x)
    draws = generator(0, "bootstrap of slopes", n).integers(n, size=(RESAMPLES, n))
    return Trend(
        correlation=float(np.corrcoef(_ranks(x), _ranks(y))[0, 1]) if np.ptp(y) else 0.0,
        per="doubling" if positive else "unit",
        slope=float(slope),
        intercept=float(y.mean() - slope * x.mean()),
        span=float(np.ptp(x)),
        interval=_middle(_slopes(x[draws], y[draws])) if n >= MIN_TRIALS else None,
    )


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes, one a row; 0 where all x of a row are equal. x, y: (rows, n)."""
    x = x - x.mean(axis=1, keepdims=True)
    squares = (x * x).sum(axis=1)
    return np.divide((x * y).sum(axis=1), squares, out=np.zeros(len(x)), where=squares > 0)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks, the mean rank for equal values."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _middle(resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(low), float(high))
