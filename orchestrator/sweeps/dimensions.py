"""One thing that a sweep varies: a choice between options, or a range of numbers.

Both go three ways: to a domain of Ray Tune, from what Tune samples to recipe fields, and back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = dict[str, str]
"""A configuration, or a part of one: recipe field -> canonical text, as `--set` takes it."""

DIGITS = 4  # of a drawn number: enough to matter, few enough to be read and typed again


@dataclass(frozen=True)
class Choice:
    """One of finitely many parts of a configuration."""

    name: str
    options: Mapping[str, Values]
    """What Tune sees -> what it stands for. All have the same fields."""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(next(iter(self.options.values())))

    @property
    def extremes(self) -> tuple[str, ...]:
        return tuple(self.options)

    def domain(self) -> Any:
        from ray import tune

        return tune.choice(list(self.options))

    def draw(self, rng: np.random.Generator) -> str:
        return list(self.options)[rng.integers(len(self.options))]

    def values(self, sampled: str) -> Values:
        return dict(self.options[sampled])

    def sampled(self, values: Values) -> str | None:
        """What Tune would have to sample for these values; None if it cannot."""
        return next((label for label, option in self.options.items() if option.items() <= values.items()), None)


@dataclass(frozen=True)
class Range:
    """A number of one field, from `low` to `high`, both included."""

    name: str
    low: float
    high: float
    log: bool
    """Uniform in the logarithm."""
    integer: bool

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def extremes(self) -> tuple[float, ...]:
        return self.low, self.high

    def domain(self) -> Any:
        from ray import tune

        if self.integer:
            low, past = int(self.low), int(self.high) + 1
            return tune.lograndint(low, past) if self.log else tune.randint(low, past)
        return tune.loguniform(self.low, self.high) if self.log else tune.uniform(self.low, self.high)

    def draw(self, rng: np.random.Generator) -> float:
        low, end, share = self.low, self.high + self.integer, rng.random()
        number = low * (end / low) ** share if self.log else low + (end - low) * share
        return math.floor(number) if self.integer else number

    def values(self, sampled: float) -> Values:
        number = int(sampled) if self.integer else float(f"{sampled:.{DIGITS}g}")
        return {self.name: canonical(min(max(number, self.low), self.high))}

    def sampled(self, values: Values) -> float | None:
        """What Tune would have to sample for these values; None if it cannot."""
        number = number_in(values.get(self.name, ""))
        if number is None or not self.low <= number <= self.high or (self.integer and number != int(number)):
            return None
        return int(number) if self.integer else number


def canonical(value: Any) -> str:
    """The one text of a value: `--set` makes it this value again, and equal values have equal texts."""
    if not isinstance(value, str):
        return json.dumps(value).removesuffix(".0")
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)  # a pose named 90 must not come back as a number


def number_in(text: str) -> float | None:
    """The number that a text is, if it is one."""
    try:
        return float(text)
    except ValueError:
        return None
