"""What a sweep varies: `--over` texts and named spaces, and the configurations that they hold.

The texts of a configuration are canonical (`10`, never `10.0`), so that one configuration has one name, however it was
asked for.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from compgan_core.errors import ConfigurationError, did_you_mean
from compgan_core.losses import LAMBDA, MU, TERMS
from compgan_core.randomness import generator
from compgan_core.recipe import make_recipe
from orchestrator.sweeps.dimensions import Choice, Range, Values, canonical, number_in

COUNT, COUNTS = "synth.count", (0, 1, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Sec. 5.4, "The number of synthesized images"."""
WEIGHTS = {f"{of}.{term}": getattr(paper, term) for of, paper in (("lambda", LAMBDA), ("mu", MU)) for term in TERMS}
NAMED = ("counts", "weights", "ablation")

_TEXTS = {
    "counts": [f"{COUNT}={','.join(map(str, COUNTS))}"],
    "weights": [f"{field}=log:{weight / 4:g}:{weight * 4:g}" for field, weight in WEIGHTS.items()],
}
_ELSEWHERE = {
    "preset": "--preset",
    "seed": "--seeds",
    "split.seed": "--seeds",
    "split.task": "--task",
    "variants": "--set variants=...",
}
_RANGE = re.compile(r"(?:(log|int):)?([^:,]*):([^:,]*)")


@dataclass(frozen=True)
class Space:
    """The product of its dimensions."""

    dimensions: tuple[Choice | Range, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Every configuration has exactly these."""
        return tuple(field for dimension in self.dimensions for field in dimension.fields)

    def grid(self) -> list[Values]:
        """All configurations, the last dimension changing fastest. Raises ConfigurationError if one is a range."""
        for dimension in self.dimensions:
            if isinstance(dimension, Range):
                raise ConfigurationError(
                    f"{dimension.name} is a range, which a grid cannot go through: give values, as in "
                    f"--over {dimension.name}=V1,V2,V3, or use --search random or --search optuna with --trials N"
                )
        names = [dimension.name for dimension in self.dimensions]
        products = itertools.product(*(dimension.extremes for dimension in self.dimensions))
        return [self.values(dict(zip(names, options, strict=True))) for options in products]

    def tune(self) -> dict[str, Any]:
        """The `param_space` of Ray Tune for its searchers."""
        return {dimension.name: dimension.domain() for dimension in self.dimensions}

    def values(self, config: Mapping[str, Any]) -> Values:
        """The configuration that a sample of `tune()` stands for; real numbers rounded to four significant digits."""
        parts = [dimension.values(config[dimension.name]) for dimension in self.dimensions]
        return {field: text for part in parts for field, text in part.items()}

    def config(self, values: Values) -> dict[str, Any] | None:
        """The sample of `tune()` that stands for a configuration, for searchers that learn from earlier trials.

        None if the configuration lies outside of the space.
        """
        config = {dimension.name: dimension.sampled(values) for dimension in self.dimensions}
        return None if None in config.values() else config

    def sample(self, seed: int, index: int) -> Values:
        """Configuration `index` of a random search: a dimension's part depends on (seed, index, dimension) alone."""
        return self.values({d.name: d.draw(generator(seed, "sweep", index, d.name)) for d in self.dimensions})

    def corners(self) -> list[Values]:
        """A few configurations in which every option and both ends of every range occur.

        A stage that has one fingerprint in all of them is shared by all trials.
        """
        most = max(len(dimension.extremes) for dimension in self.dimensions)
        return [self.values({d.name: d.extremes[i % len(d.extremes)] for d in self.dimensions}) for i in range(most)]


def parse(
    over: Sequence[str],
    named: str | None = None,
    allow: bool = False,
    *,
    preset: str = "paper",
    task: str = "ER-FE",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Space:
    """The space of `--over` texts and a named space; `counts` if there is neither.

    over: `field=v1,v2,v3`, `field=low:high`, `field=log:low:high` or `field=int:low:high`; several multiply.
    allow: more synthesized faces than the paper's 1,000. preset, task, settings: the recipe that the sweep varies.

    Raises ConfigurationError: an unknown field or space, a value that the recipe refuses, an empty or reversed range, a
    repeated value, a field that is given twice.
    """
    if named is not None and named not in NAMED:
        raise ConfigurationError(f"no space {named!r}; {did_you_mean(named, list(NAMED))}")
    if named is None and not over:
        named = "counts"
    base = _Base(preset, task, settings, allow)
    dimensions = [_dimension(base, text) for text in [*_TEXTS.get(named or "", []), *over]]
    _refuse_twice([*settings, *(dimension.name for dimension in dimensions)])
    if named == "ablation":
        dimensions.insert(0, _ablation(base))
    space = Space(tuple(dimensions))
    _refuse_twice(space.fields)
    return space


@dataclass(frozen=True)
class _Base:
    """The recipe that a sweep varies."""

    preset: str
    task: str
    settings: Mapping[str, str]
    allow: bool

    def value(self, field: str, text: str | None = None) -> Any:
        """What the recipe makes of a text for a field, or holds without one. Raises ConfigurationError."""
        overrides = self.settings if text is None else {**self.settings, field: text}
        value: Any = make_recipe(self.preset, self.task, overrides=overrides).model_dump(mode="json", by_alias=True)
        for name in field.split("."):
            value = value[name]
        if isinstance(value, dict):
            raise ConfigurationError(f"{field} is a group of fields: name one, as in {field}.{next(iter(value))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{field}={text} is not finite: give a number")
        return value

    def swept(self, field: str, text: str) -> Any:
        """The same of a value that a sweep asks for."""
        if field in _ELSEWHERE:
            raise ConfigurationError(f"{field} cannot be swept: give it with {_ELSEWHERE[field]}")
        if field == COUNT and not self.allow and (number_in(text) or 0) > COUNTS[-1]:
            raise ConfigurationError(f"{field}={text} is above {COUNTS[-1]}, the paper's most: --allow lets it through")
        return self.value(field, text)


def _dimension(base: _Base, over: str) -> Choice | Range:
    field, _, body = over.partition("=")
    if not field or not body:
        raise ConfigurationError(f"--over {over!r} has no values: write KEY=V1,V2,V3, KEY=LOW:HIGH or KEY=log:LOW:HIGH")
    match = _RANGE.fullmatch(body)
    if not match:
        return _choice(base, over, field, body)
    kind, *ends = match.groups()
    return _range(over, field, kind or "", *(base.swept(field, end) for end in ends))


def _choice(base: _Base, over: str, field: str, body: str) -> Choice:
    options: dict[str, Values] = {}
    for text in _split(body):
        if not text:
            raise ConfigurationError(f"--over {over} has an empty value: write values between the commas")
        value = canonical(base.swept(field, text))
        if value in options:
            raise ConfigurationError(f"--over {over} repeats {value}: give each value once")
        options[value] = {field: value}
    return Choice(field, options)


def _range(over: str, field: str, kind: str, low: Any, high: Any) -> Range:
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
        raise ConfigurationError(f"--over {over} is a range, but {field} is no number: write {field}=V1,V2,V3")
    if low == high:
        raise ConfigurationError(f"--over {over} is an empty range: write {field}={canonical(low)} or a wider one")
    if low > high:
        raise ConfigurationError(f"--over {over} is a reversed range: write the lower end first")
    if kind == "log" and low <= 0:
        raise ConfigurationError(f"--over {over} is a logarithmic range that touches 0: begin above 0")
    if kind == "int" and not (low == int(low) and high == int(high)):
        raise ConfigurationError(f"--over {over} is a range of integers: give integers as its ends")
    return Range(field, low, high, log=kind == "log", integer=kind == "int" or isinstance(low, int))


def _ablation(base: _Base) -> Choice:
    """Fig. 16: the full model, and each loss left out of both generators."""
    full = {field: canonical(base.value(field)) for field in WEIGHTS}
    options = {"full": full}
    for term in TERMS:
        without = full | {f"lambda.{term}": "0", f"mu.{term}": "0"}
        if without != full:
            options[f"without {term}"] = without
    return Choice("ablation", options)


def _split(body: str) -> list[str]:
    """The values between commas: JSON, whose lists hold commas themselves, or plain texts."""
    try:
        return [json.dumps(value) for value in json.loads(f"[{body}]")]
    except json.JSONDecodeError:
        return [part.strip() for part in body.split(",")]


def _refuse_twice(fields: Sequence[str]) -> None:
    for field in fields:
        if fields.count(field) > 1:
            raise ConfigurationError(f"{field} is given twice: give it once, by --space, --over or --set")
