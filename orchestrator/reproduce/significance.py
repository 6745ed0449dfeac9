"""Whether one row of a table beats another, from what both read in the same test images.

Two things are uncertain: which images test, and which shots were drawn (or, with several seeds, everything that a seed
decides). A paired bootstrap over the test images tells of the first, an interval over the means of draws or seeds of
the second. Runs that share shots are no sample of their own, so they are averaged before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np

from compgan_core.randomness import generator
from orchestrator.results import standard_error
from orchestrator.sweeps.analysis import Interval

RESAMPLES = 10_000
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t for 95%, by degrees of freedom from 1; beyond them the last is used, which is a little too wide."""

Verdict = Literal["holds", "does not hold", "undecided"]


class Run(NamedTuple):
    """What tells the runs of one row apart."""

    seed: int
    draw: int
    tuning: int


Hits = Mapping[Run, np.ndarray]
"""Run -> (images,) bool, whether each test image was read right, or the share of its edits. Runs of one seed have the
same images."""


class Spread(NamedTuple):
    """A mean, and 95% of Student's t over what it was averaged over."""

    mean: float
    interval: Interval | None
    """None for a single unit."""
    units: int
    """Seeds if there are several, else draws of the shots."""
    runs: int


@dataclass(frozen=True)
class Comparison:
    """One row minus another, in percentage points."""

    difference: float
    over_units: Interval | None
    """95% of Student's t over seeds, or over draws where there is one seed; None for a single one."""
    over_images: Interval | None
    """95% of a paired bootstrap over test images; None where no readings are known."""
    units: int
    what: Literal["seeds", "draws"]
    """The units are."""

    @property
    def verdict(self) -> Verdict:
        """Of the claim that the first row is better: decided where every interval lies on one side of zero."""
        known = [interval for interval in (self.over_units, self.over_images) if interval]
        if known and all(low > 0 for low, _ in known):
            return "holds"
        return "does not hold" if known and all(high < 0 for _, high in known) else "undecided"


def spread(values: Mapping[Run, float], most: float = 100.0) -> Spread:
    """Over seeds if there are several, else over draws; fine-tunings are averaged first, and draws within seeds.

    values: from 0 to `most`, and so is the interval.
    """
    units = _by_unit(values)
    interval = t_interval(units)
    inside = interval and Interval(max(0.0, interval.low), min(most, interval.high))
    return Spread(fmean(units), inside, len(units), len(values))


def t_interval(values: Sequence[float]) -> Interval | None:
    """95% of the mean of two values or more; None for one."""
    if len(values) < 2:
        return None
    half = T_975[min(len(values) - 1, len(T_975)) - 1] * standard_error(values)
    return Interval(fmean(values) - half, fmean(values) + half)


def compare(better: Hits, worse: Hits, seed: int = 0) -> Comparison | None:
    """One row against another over the runs that both have; None if there is none. seed: of the resampling."""
    both = [run for run in better if run in worse]
    if not both:
        return None
    differences = {run: better[run].astype(np.float64) - worse[run] for run in both}
    units = _by_unit({run: 100 * float(of_images.mean()) for run, of_images in differences.items()})
    by_seed: dict[int, list[np.ndarray]] = defaultdict(list)
    for run, of_images in differences.items():
        by_seed[run.seed].append(of_images)
    images = [100 * _balanced(runs, [run for run in both if run.seed == s]) for s, runs in by_seed.items()]
    return Comparison(
        fmean(units), t_interval(units), _bootstrap(images, seed), len(units), "seeds" if len(by_seed) > 1 else "draws"
    )


def _by_unit(values: Mapping[Run, float]) -> list[float]:
    by_draw: dict[tuple[int, int], list[float]] = defaultdict(list)
    for run, value in values.items():
        by_draw[run.seed, run.draw].append(value)
    by_seed: dict[int, list[float]] = defaultdict(list)
    for (seed, _), of_tunings in by_draw.items():
        by_seed[seed].append(fmean(of_tunings))
    return [fmean(draws) for draws in by_seed.values()] if len(by_seed) > 1 else next(iter(by_seed.values()))


def _balanced(of_runs: list[np.ndarray], runs: list[Run]) -> np.ndarray:
    """The mean over draws of the mean over fine-tunings, for each image."""
    by_draw: dict[int, list[np.ndarray]] = defaultdict(list)
    for run, of_images in zip(runs, of_runs, strict=True):
        by_draw[run.draw].append(of_images)
    return np.mean([np.mean(tunings, axis=0) for tunings in by_draw.values()], axis=0)


def _bootstrap(images: Sequence[np.ndarray], seed: int) -> Interval:
    """Of the mean over seeds of the mean over images, each seed's images resampled by themselves."""
    rng, means = generator(seed, "test images"), np.zeros(RESAMPLES)
    for of_seed in images:
        n = len(of_seed)
        # How often each value occurs in a resample is all that matters, and differences have few values.
        values, counts = np.unique(of_seed, return_counts=True)
        drawn = rng.multinomial(n, counts / n, size=RESAMPLES)
        means += drawn @ values / n / len(images)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))
