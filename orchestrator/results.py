"""The table of a study, from records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Row:
    """One variant of the table."""

    variant: str
    title: str
    means: dict[str, float]
    errors: dict[str, float]
    """Standard error over the runs; absent for a single one."""
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
    """A row for each variant, over its runs. titles: variant -> title. records: by stage name. measure: as Study."""
    rows = []
    for variant, title in titles.items():
        metrics = [r.metrics for name, r in records.items() if name.startswith(f"{measure} {variant} #")]
        if metrics:
            means = {column: _mean(m[column] for m in metrics) for column in COLUMNS if column in metrics[0]}
            errors = {column: _standard_error([m[column] for m in metrics]) for column in means}
            rows.append(Row(variant, title, means, errors if len(metrics) > 1 else {}, len(metrics)))
    return rows


def outcome(study: Study, plan: Plan, records: Mapping[str, Record], seconds: Mapping[str, float]) -> dict[str, Any]:
    """What a script is told of a study that ran. seconds: of the stages that ran, by fingerprint."""
    ran = {stage.fingerprint for stage in plan.to_run}
    rows = table(study.titles, records, study.measure)
    return {
        "study": study.name,
        "metrics": {row.variant: {"means": row.means, "errors": row.errors, "runs": row.runs} for row in rows}
        | {name: record.metrics for name, record in records.items() if name.split()[0] in ("quality", "judge")},
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


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _standard_error(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
