"""A sweep as its report tells it: the records, and what `analysis` and `cost` make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.results import COLUMNS
from orchestrator.sweeps import charts
from orchestrator.sweeps.analysis import Change, Effect, Line, baseline_of, changes, leaderboard, main_effects
from orchestrator.sweeps.cost import Cost, cost
from orchestrator.sweeps.ledger import SweepHead, TestTable, TrialRecord
from orchestrator.sweeps.space import COUNT

FEW_FIELDS = 3  # name a configuration by their values


@dataclass(frozen=True)
class Findings:
    """A sweep, and all that is worked out from its records."""

    head: SweepHead
    trials: tuple[TrialRecord, ...]
    test: TestTable | None
    """The chosen configuration's row first, then the baseline's."""
    stage_seconds: Mapping[str, float]
    """By fingerprint."""
    baseline_values: Mapping[str, str] | None = None
    """Of the configuration that the others are compared with."""
    command: str = ""
    """That of the sweep."""

    @property
    def variant(self) -> str:
        return self.head.base.variants[-1]

    @cached_property
    def lines(self) -> list[Line]:
        return leaderboard(self.head, self.trials, self.variant, self.head.metric, self.baseline_values)

    @cached_property
    def finished(self) -> list[Line]:
        return [line for line in self.lines if line.state == "finished"]

    @cached_property
    def baseline(self) -> Line | None:
        return baseline_of(self.finished, self.baseline_values)

    @property
    def reference(self) -> float | None:
        """The baseline's accuracy, in percent."""
        return self.baseline.mean if self.baseline else None

    @cached_property
    def chosen(self) -> Line | None:
        """What the test rows were read for; before that, the best."""
        if self.test:
            return next((line for line in self.finished if line.values == self.test.chosen), None)
        return next(iter(self.finished), None)

    @property
    def separated(self) -> bool:
        """Whether the interval of the best configuration's difference to the baseline lies above 0."""
        difference = self.finished[0].difference if self.finished else None
        return bool(difference and difference.interval and difference.interval.low > 0)

    @cached_property
    def changes(self) -> list[Change]:
        return changes(self.lines, self.baseline)

    @cached_property
    def effects(self) -> list[Effect]:
        """None for an ablation, which has `changes`."""
        return [] if self.changes else main_effects(self.lines)

    @property
    def panels(self) -> list[Effect]:
        """The effects to draw; the one of the count has a chart of its own."""
        return [effect for effect in self.effects if effect.field != COUNT or not self.curve]

    @property
    def curve(self) -> charts.Draw | None:
        """Accuracy against the number of synthesized faces, if the best configuration was run with several."""
        best = self.finished[0].values if self.finished else {}
        like_best = [line for line in self.finished if {**line.values, COUNT: ""} == {**best, COUNT: ""}]
        if COUNT not in best or len(like_best) < 2:
            return None
        return charts.curve(self.finished, self.finished[0], self.reference, f"{self.measure} (%)")

    @cached_property
    def cost(self) -> Cost:
        return cost(self.trials, self.stage_seconds)

    @property
    def measure(self) -> str:
        return f"{COLUMNS[self.head.metric]} accuracy"

    def name(self, line: Line) -> str:
        """What a reader calls a configuration."""
        change = next((change for change in self.changes if change.key == line.key), None)
        if change:
            return change.name
        if len(self.head.fields) <= FEW_FIELDS:
            return ", ".join(f"{field}={value}" for field, value in line.values.items())
        if self.baseline and line.key == self.baseline.key:
            return "full model" if self.changes else "baseline"
        return f"trial {line.key[:8]}"

    def why(self, line: Line) -> str:
        """Why a configuration did not finish."""
        probes = next(trial.probes for trial in self.trials if trial.key == line.key)
        seen = "; last probe: " + ", ".join(f"{name} {value:g}" for name, value in probes[-1].items()) if probes else ""
        return line.failure or f"ended early{seen}"
