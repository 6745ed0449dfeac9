"""Which studies the tables need: one for each task, number of shots and seed, and they share their stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from compgan_core.data.splits import FEW_SHOT_TASKS, NOVEL_ATTRIBUTE
from compgan_core.errors import ConfigurationError, DataError, did_you_mean
from compgan_core.losses import Weights
from compgan_core.recipe import make_recipe
from orchestrator.datasets import Dataset
from orchestrator.reproduce.paper import TASKS, paper
from orchestrator.reproduce.supervised import Pretrained, SupervisedStudy, supervised_studies
from orchestrator.study import BESIDE, Study, study_of

CONTROLS = ("degraded", "mirrored", "oracle")
"""In every table, or a gain means nothing."""
ONE_GENERATOR = "one generator for pose and expression"


class Key(NamedTuple):
    """What tells the studies of a reproduction apart."""

    task: str
    shots: int
    """0 for a task without shots."""
    seed: int


@dataclass(frozen=True)
class Reproduction:
    """Tables of the paper on one data set."""

    dataset: Dataset
    preset: str
    tables: tuple[int, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    shots: int
    """Of Tables 4, 5 and 7; the paper's is 1. Table 6 has its own."""
    overrides: Mapping[str, str]
    ablations: bool = False
    """Whether Comp-GAN is also trained without each of its losses, and with one generator (Fig. 16)."""
    others: Mapping[str, Dataset] = field(default_factory=dict)
    """FER2013 and JAFFE if they were imported, by format."""
    before: Dataset | Pretrained | None = None
    """What the supervised run on the data set itself is pre-trained on."""
    attributes: bool = False
    """Whether on its binary attributes, rather than on identities."""

    @cached_property
    def wanted(self) -> dict[Key, tuple[str, ...]]:
        """The variants that each study needs, controls last."""
        found: dict[Key, list[str]] = {}
        for number in self.tables:
            table = paper().tables.get(number)
            for task in (task for task in self.tasks if table and task in table.tasks):
                assert table
                for shots in self.shots_of(number, task):
                    for seed in self.seeds:
                        found.setdefault(Key(task, shots, seed), []).extend(table.rows)
        return {
            key: tuple(dict.fromkeys([*rows, *(name for name in CONTROLS if _fits(name, key.task))]))
            for key, rows in found.items()
        }

    def shots_of(self, table: int, task: str) -> tuple[int, ...]:
        """The numbers of shots that a table has of a task."""
        if task not in FEW_SHOT_TASKS:
            return (0,)
        shots = paper().tables[table].shots
        return shots if len(shots) > 1 else (self.shots,)

    @cached_property
    def studies(self) -> dict[Key, Study]:
        """Those that the data allow, with the variants that they allow."""
        possible = {key: [v for v in wanted if not self.missing(key, v)] for key, wanted in self.wanted.items()}
        return {key: self._study(key, tuple(variants)) for key, variants in possible.items() if variants}

    @cached_property
    def ablated(self) -> dict[str, Study]:
        """What is left out -> the study of a Comp-GAN without it, on the first task and seed; no table needs them."""
        if not self.ablations:
            return {}
        without = {f"without {name} loss": {f"lambda.{name}": "0", f"mu.{name}": "0"} for name in Weights.model_fields}
        without[ONE_GENERATOR] = {"compgan.generator.shared": "true", "compgan.reference_mismatch": "0"}
        first = next(iter(self.wanted), Key(self.tasks[0], self.shots, self.seeds[0]))
        return {title: self._study(first, (), settings) for title, settings in without.items()}

    @cached_property
    def supervised(self) -> dict[str, SupervisedStudy]:
        """Those of Tables 2 and 3."""
        wanted = [number for number in self.tables if number in paper().supervised]
        formats = [paper().supervised[number].data for number in wanted]
        others = {name: data for name, data in self.others.items() if name in formats}
        settings = dict(self.overrides)
        recipes = {seed: make_recipe(self.preset, "ER-SS", 1, seed, settings) for seed in self.seeds}
        return supervised_studies(recipes, self.dataset, others, self.before, self.attributes) if wanted else {}

    @property
    def everything(self) -> dict[str, Study]:
        """All studies, by what they are for: first those that the others share most with."""
        names = {key: f"{key.task}, seed {key.seed}" + f", {key.shots} shots" * bool(key.shots) for key in self.studies}
        return {names[key]: study for key, study in self.studies.items()} | self.ablated | self.supervised

    def missing(self, key: Key, variant: str) -> str:
        """Why a variant of a study cannot be computed on this data; empty if it can."""
        if key not in self.wanted:
            return f"{key.task} was not asked for"
        if variant in CONTROLS and not _fits(variant, key.task):
            return f"{key.task} has no novel {'pose to mirror' if variant == 'mirrored' else 'category'}"
        return self._reasons.get((key.task, key.shots, variant), "no row of the tables that were asked for")

    @cached_property
    def _reasons(self) -> dict[tuple[str, int, str], str]:
        found = {}
        for key in (key for key in self.wanted if key.seed == self.seeds[0]):
            for variant in self.wanted[key]:
                try:
                    self._study(key, (variant,))
                    found[key.task, key.shots, variant] = ""
                except (DataError, ConfigurationError) as error:
                    found[key.task, key.shots, variant] = str(error)
        return found

    def _study(self, key: Key, variants: tuple[str, ...], more: Mapping[str, str] | None = None) -> Study:
        settings = {**self.overrides, "variants": json.dumps(variants), **(more or {})}
        beside = BESIDE if key.seed == self.seeds[0] else ("quality", "fidelity")  # one seed's pictures are shown
        return study_of(self.dataset, self.preset, key.task, max(1, key.shots), key.seed, settings, beside=beside)


def make_reproduction(
    dataset: Dataset,
    *,
    preset: str,
    tables: Sequence[int],
    tasks: Sequence[str],
    seeds: int,
    shots: int,
    overrides: Mapping[str, str],
    ablations: bool = False,
    others: Mapping[str, Dataset] = MappingProxyType({}),
    before: Dataset | Pretrained | None = None,
    attributes: bool = False,
) -> Reproduction:
    """Whatever can be wrong with the options is found here. Raises ConfigurationError and DataError."""
    known = [*paper().supervised, *paper().tables]
    for number in tables:
        if number not in known:
            raise ConfigurationError(
                f"the paper has no table {number} of results: choose from {', '.join(map(str, known))}"
            )
    for task in tasks:
        if task not in TASKS:
            raise ConfigurationError(f"there is no task {task!r}: {did_you_mean(task, list(TASKS))}")
    if "variants" in overrides:
        raise ConfigurationError("variants follow from the tables: leave --set variants out, and choose --tables")
    if attributes and not isinstance(before, Dataset):
        raise ConfigurationError("--attributes needs a data set to pre-train on: name one with --pretrained-on")
    make_recipe(preset, tasks[0], shots, 0, overrides)
    made = Reproduction(
        dataset,
        preset,
        tuple(tables),
        tuple(tasks),
        tuple(range(seeds)),
        shots,
        dict(overrides),
        ablations,
        others,
        before,
        attributes,
    )
    if made.wanted and not made.studies:
        first = next(iter(made.wanted))
        raise DataError(made.missing(first, made.wanted[first][0]))
    return made


def _fits(control: str, task: str) -> bool:
    if control == "oracle":
        return NOVEL_ATTRIBUTE[task] is not None
    return control != "mirrored" or NOVEL_ATTRIBUTE[task] == "pose"
