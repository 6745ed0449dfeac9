"""Taking turns and taking medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch


class Figure(NamedTuple):
    """One measured figure."""

    name: str
    unit: str
    median: float
    least: float
    greatest: float
    repeats: int

    def __str__(self) -> str:
        spread = f"{self.least:.4g} to {self.greatest:.4g}, {self.repeats} repeats"
        return f"{self.name:58} {self.median:10.4g} {self.unit:9} ({spread})"


def figure(name: str, unit: str, values: list[float]) -> Figure:
    return Figure(name, unit, statistics.median(values), min(values), max(values), len(values))


def interval(name: str, unit: str, values: list[float]) -> Figure:
    """The median with the bounds of its 95% bootstrap interval in place of least and greatest."""
    draws = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Figure(name, unit, statistics.median(values), float(low), float(high), len(values))


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work, repeat by repeat in turn, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            _settle(device)
            started = time.perf_counter()
            work()
            _settle(device)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
