"""Several studies at once: what they share, what is left to run, and what that would cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from orchestrator.artifacts.artifacts import Artifacts, Record
from orchestrator.study.stage import Stage
from orchestrator.study.study import Study


class SharedPlan:
    """What studies would run, given what the store holds. Touches nothing."""

    def __init__(self, studies: Sequence[Study], artifacts: Artifacts):
        self.separate = sum(len(study.stages) for study in studies)
        """Stage runs if every study ran all that it needs."""
        distinct = {stage.fingerprint: stage for study in studies for stage in study.stages}
        self.distinct = len(distinct)
        recorded = artifacts.recorded((stage.kind, name) for name, stage in distinct.items())
        self.needed: Counter[str] = Counter()
        """How many studies would run a stage, by fingerprint."""
        stages: dict[str, Stage] = {}
        for study in studies:
            to_run = {stage.fingerprint: stage for stage in study.plan(artifacts, recorded).to_run}
            self.needed.update(to_run.keys())
            stages = {**to_run, **stages}
        self.to_run = stages
        """The stages without a record, by fingerprint."""

    def seconds(self, artifacts: Artifacts) -> float | None:
        """An estimate for the stages to run, from the records of their kinds whose recipes are most like theirs.

        None where a kind was never recorded.
        """
        past: dict[str, list[Record]] = defaultdict(list)
        for record in artifacts.records():
            past[record.stage].append(record)
        if not all(past[stage.kind] for stage in self.to_run.values()):
            return None
        return sum(_seconds_like(stage, past[stage.kind]) for stage in self.to_run.values())


def in_order(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Each stage after those of its inputs that are among them."""
    waiting = {stage.fingerprint: stage for stage in stages}

    def before(stage: Stage) -> Iterator[Stage]:
        for needed in stage.stage_inputs():
            if needed.fingerprint in waiting:
                yield from before(waiting.pop(needed.fingerprint))
        yield stage

    while waiting:
        yield from before(waiting.pop(next(iter(waiting))))


def _seconds_like(stage: Stage, records: Sequence[Record]) -> float:
    alike = [sum(record.recipe.get(key) == value for key, value in stage.recipe.items()) for record in records]
    return median(record.seconds for record, same in zip(records, alike, strict=True) if same == max(alike))
