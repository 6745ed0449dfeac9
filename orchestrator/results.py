"""The table of a study, from records alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.artifacts.artifacts import Record

if TYPE_CHECKING:
    from orchestrator.study import Plan, Study

COLUMNS = {
    "novel": "novel",
    "novel_only": "novel among novel",
    "base": "base",
    "harmonic": "harmonic mean",
    "pooled": "pooled",
}
"""Measures of a row, in percent, by their name in the record."""
JUDGED = ("judge", "quality", "fidelity")
"""Stages whose figures stand beside the table's."""


@dataclass(frozen=True)
class Row:
    """One variant of the table."""

    variant: str
    title: str
    means: dict[str, float]
    errors: dict[str, float]
    """Standard error over the draws of the shots, whose fine-tunings are averaged first; absent for a single draw."""
    runs: int
    """Draws of the shots times fine-tunings of each."""

    def cell(self, column: str) -> str:
        """`22.0±1.3`, or `22.0` for a single run; empty where the task has no such measure."""
        if column not in self.means:
            return ""
        error = f"±{self.errors[column]:.1f}" if column in self.errors else ""
        return f"{self.means[column]:.1f}{error}"


def table(
    titles: Mapping[str, str], records: Mapping[str, Record], measure: Literal["evaluate", "validate"] = "evaluate"
) -> list[Row]:
    """A row for each variant: the mean over draws of the mean over fine-tunings.

    titles: variant -> title. records: by stage name. measure: as Study.
    """
    rows = []
    for variant, title in titles.items():
        draws: dict[str, list[Mapping[str, float]]] = defaultdict(list)
        for name, record in records.items():
            if name.startswith(start := f"{measure} {variant} #"):
                draws[name.removeprefix(start).partition(".")[0]].append(record.metrics)
        if draws:
            runs = [metrics for draw in draws.values() for metrics in draw]
            by_draw = {
                column: [fmean(metrics[column] for metrics in draw) for draw in draws.values()]
                for column in COLUMNS
                if column in runs[0]
            }
            errors = {column: standard_error(values) for column, values in by_draw.items()} if len(draws) > 1 else {}
            means = {column: fmean(values) for column, values in by_draw.items()}
            rows.append(Row(variant, title, means, errors, len(runs)))
    return rows


def outcome(study: Study, plan: Plan, records: Mapping[str, Record], seconds: Mapping[str, float]) -> dict[str, Any]:
    """What a script is told of a study that ran. seconds: of the stages that ran, by fingerprint."""
    ran = {stage.fingerprint for stage in plan.to_run}
    rows = table(study.titles, records, study.measure)
    return {
        "study": study.name,
        "metrics": {row.variant: {"means": row.means, "errors": row.errors, "runs": row.runs} for row in rows}
        | {name: record.metrics for name, record in records.items() if name.split()[0] in JUDGED},
        "stages": [
            {
                "name": stage.name,
                "fingerprint": stage.fingerprint,
                "state": "run" if stage.fingerprint in ran else "cached",
                "seconds": seconds.get(stage.fingerprint, 0.0),
            }
            for stage in study.stages
        ],
        "records": [f"artifacts/{s.kind}/{s.fingerprint}/record.json" for s in study.stages if s.name in records],
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two values or more."""
    return stdev(values) / math.sqrt(len(values))
