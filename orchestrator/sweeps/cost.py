"""What a sweep cost, and what it saved by computing each stage once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from orchestrator.sweeps.ledger import TrialRecord


class StageCost(BaseModel, frozen=True, extra="forbid"):
    """Runs of one kind of stage, and their seconds: as they were, and had every configuration and seed run its own."""

    kind: str
    runs: int
    seconds: float
    separate_runs: int
    separate_seconds: float


class Cost(BaseModel, frozen=True, extra="forbid"):
    """What the sweep cost, and what separate runs would have cost. Of the seeds that are done."""

    stages: tuple[StageCost, ...]
    seconds: float
    separate_seconds: float
    unfinished_seconds: float
    """Of trials that were stopped or failed, seeds that they had not done; in neither of the sums."""
    untimed: int
    """Distinct stages whose seconds are not known; they count nothing."""
    factor: float | None
    """Separate over shared; None where no stage was timed."""


def cost(trials: Iterable[TrialRecord], stage_seconds: Mapping[str, float]) -> Cost:
    """stage_seconds: by fingerprint."""
    asked: dict[str, list[str]] = defaultdict(list)
    unfinished = 0.0
    for trial in trials:
        if trial.state != "finished":
            unfinished += max(0.0, trial.seconds - sum(result.seconds for result in trial.results))
        for result in trial.results:
            for name, fingerprint in result.stages.items():
                asked[name.split()[0]].append(fingerprint)
    stages = [_stage_cost(kind, fingerprints, stage_seconds) for kind, fingerprints in asked.items()]
    seconds, separate_seconds = (sum(s.seconds for s in stages), sum(s.separate_seconds for s in stages))
    return Cost(
        stages=tuple(stages),
        seconds=seconds,
        separate_seconds=separate_seconds,
        unfinished_seconds=unfinished,
        factor=separate_seconds / seconds if seconds else None,
        untimed=len({f for fingerprints in asked.values() for f in fingerprints} - set(stage_seconds)),
    )


def _stage_cost(kind: str, fingerprints: Sequence[str], seconds: Mapping[str, float]) -> StageCost:
    distinct = dict.fromkeys(fingerprints)
    return StageCost(
        kind=kind,
        runs=len(distinct),
        seconds=sum(seconds.get(f, 0.0) for f in distinct),
        separate_runs=len(fingerprints),
        separate_seconds=sum(seconds.get(f, 0.0) for f in fingerprints),
    )
