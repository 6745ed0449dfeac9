"""The table of a study, from records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifacts.artifacts import Record

COLUMNS = {
    "novel": "novel",
    "novel_only": "novel among novel",
    "base": "base",
    "harmonic": "harmonic mean",
    "pooled": "pooled",
}
"""Measures of a row, in percent, by their name in the record."""


@dataclass(frozen=True)
class Row:
    """One variant of the table."""

    variant: str
    title: str
    means: dict[str, float]
    errors: dict[str, float]
    """Standard error over the draws of the shots; absent for a single draw."""
    draws: int

    def cell(self, column: str) -> str:
        """`22.0±1.3`, or `22.0` for a single draw; empty where the task has no such measure."""
        if column not in self.means:
            return ""
        error = f"±{self.errors[column]:.1f}" if column in self.errors else ""
        return f"{self.means[column]:.1f}{error}"


def table(
    titles: Mapping[str, str], records: Mapping[str, Record], measure: Literal["evaluate", "validate"] = "evaluate"
) -> list[Row]:
    """A row for each variant, over its draws. titles: variant -> title. records: by stage name. measure: as Study."""
    rows = []
    for variant, title in titles.items():
        metrics = [r.metrics for name, r in records.items() if name.startswith(f"{measure} {variant} #")]
        if metrics:
            means = {column: _mean(m[column] for m in metrics) for column in COLUMNS if column in metrics[0]}
            errors = {column: _standard_error([m[column] for m in metrics]) for column in means}
            rows.append(Row(variant, title, means, errors if len(metrics) > 1 else {}, len(metrics)))
    return rows


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _standard_error(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
