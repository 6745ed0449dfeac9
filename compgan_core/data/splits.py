"""The six recognition tasks of section 4.1: which faces train, which test, and which categories are novel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, Field, field_validator

from compgan_core.data.balance import draw as draw_balanced
from compgan_core.data.files import write_last
from compgan_core.data.labels import ATTRIBUTES, Attribute, Labels, Rows
from compgan_core.errors import ConfigurationError, DataError, did_you_mean
from compgan_core.randomness import generator

Task = Literal["ER-SS", "ER-FID", "ER-ZID", "ER-FP", "ER-ZP", "ER-FE"]
NOVEL_ATTRIBUTE: dict[str, Attribute | None] = {
    "ER-SS": None,
    "ER-FID": "identity",
    "ER-ZID": "identity",
    "ER-FP": "pose",
    "ER-ZP": "pose",
    "ER-FE": "expression",
}
FEW_SHOT_TASKS = ("ER-FID", "ER-FP", "ER-FE")
ROLES = ("base_train", "base_validation", "test_base", "novel_pool", "test_novel")
PLURALS: dict[Attribute, str] = {"identity": "identities", "pose": "poses", "expression": "expressions"}
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class SplitRecipe(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides a split. Tasks with the same novel attribute and seed share their split."""

    task: Task
    seed: int = 0
    novel_fraction: Fraction = 0.2
    """Share of the identities, or of the expressions, that is novel."""
    novel_ids: Count | None = None
    """How many identities are novel in ER-FID and ER-ZID, whatever the fraction; 21 of 119 in the paper's example."""
    novel_expressions: Count | None = None
    """The same of the expressions in ER-FE; a fifth of the paper's 54 is 11."""
    novel_pose: str | None = None
    """The novel pose of ER-FP and ER-ZP; by default the one named half_left or left, as in the paper."""
    base_train_fraction: Fraction = 0.8
    """Share of the base faces that is not for testing."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of those that is kept from training, to choose the epoch by."""
    novel_test_fraction: Fraction = 0.2
    """Share of the faces of each novel category that tests; the shots are drawn from the others."""
    group_by_sequence: bool = False
    """Keep the frames of a recording together. The paper does not, so near-copies of training frames are tested."""

    @field_validator("task", mode="before")
    @classmethod
    def _known(cls, task: object) -> object:
        if task not in get_args(Task):
            raise ConfigurationError(f"there is no task {task!r}: choose one of {', '.join(get_args(Task))}")
        return task


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of each role, ascending: disjoint, and together every face that the task can use.

    novel_pool: novel faces that do not test; the k shots come from it, and the real faces of the oracle control.
    """

    recipe: SplitRecipe
    novel_categories: tuple[str, ...]
    base_train: Rows
    base_validation: Rows
    test_base: Rows
    novel_pool: Rows
    test_novel: Rows

    @property
    def novel_attribute(self) -> Attribute | None:
        return NOVEL_ATTRIBUTE[self.recipe.task]

    def check(self, labels: Labels) -> None:
        """Prove that the roles are disjoint, cover all usable faces, and hold the categories they should."""
        attribute, task = self.novel_attribute, self.recipe.task
        check_cover({role: getattr(self, role) for role in ROLES}, _usable(labels, attribute), f"the {task} split")
        base = np.concatenate([self.base_train, self.base_validation, self.test_base])
        for a in ATTRIBUTES:
            if len(np.setdiff1d(labels.codes(a)[base], labels.codes(a)[self.base_train])):
                raise DataError(f"the {task} split trains no face of a base {a}: make the split again")
        if not len(self.test_base):
            raise DataError(
                f"{task} would test no base face, of {len(base)}: import more faces, or test a larger share"
            )
        if attribute is not None:
            self._check_novel(labels, attribute, base)

    def _check_novel(self, labels: Labels, attribute: Attribute, base: Rows) -> None:
        of_novel = labels.rows_with(attribute, self.novel_categories)
        novel = np.concatenate([self.novel_pool, self.test_novel])
        if np.isin(base, of_novel).any() or not np.isin(novel, of_novel).all():
            raise DataError(f"the {self.recipe.task} split mixes base and novel categories: make the split again")
        unit = "recordings" if self.recipe.group_by_sequence else "faces"
        for rows in (self.test_novel, self.novel_pool):
            present = set(labels.codes(attribute)[rows].tolist())
            if absent := [n for n in self.novel_categories if labels.names(attribute).index(n) not in present]:
                raise DataError(f"the novel {attribute} {absent[0]!r} has too few {unit}: it needs two, one to test on")

    def save(self, path: Path, labels: Labels) -> None:
        """Write the split as JSON that names faces by key, so that it outlives any order of rows."""
        roles = {role: labels.key[getattr(self, role)].tolist() for role in ROLES}
        document = {"recipe": self.recipe.model_dump(), "novel_categories": self.novel_categories, "roles": roles}
        write_last(path, json.dumps(document, indent=1))

    @classmethod
    def load(cls, path: Path, labels: Labels) -> Split:
        """Read and check what `save` wrote; a DataError if it was made for other faces."""
        document = json.loads(path.read_text())
        row = {name: i for i, name in enumerate(labels.key.tolist())}
        try:
            roles = {
                role: np.array(sorted(row[name] for name in document["roles"][role]), dtype=np.int64) for role in ROLES
            }
        except KeyError as error:
            raise DataError(f"{path} names {error}, which is not among the faces: it belongs to other data") from None
        split = cls(SplitRecipe(**document["recipe"]), tuple(document["novel_categories"]), **roles)
        split.check(labels)
        return split


def make_split(labels: Labels, recipe: SplitRecipe) -> Split:
    """Draw a split: section 4.1, T1-T6, balanced over identity, pose and expression.

    A face without an expression, or without the task's novel attribute, gets no role. The draw depends on the order of
    the rows, which is that of the keys in whatever `read_labels` and `Faces` give.

    Raises:
        DataError: the data lacks what the task needs.
        ConfigurationError: the novel pose has to be named, or is not in the data.
    """
    attribute = NOVEL_ATTRIBUTE[recipe.task]
    rows = _usable(labels, attribute)
    _check_labelled(labels, rows, recipe.task)
    names: tuple[str, ...] = ()
    novel: Rows = np.empty(0, np.int64)
    if attribute is not None:
        names = _novel_categories(labels.take(rows), attribute, recipe)
        novel = np.intersect1d(rows, labels.rows_with(attribute, names), assume_unique=True)
    base = _without(rows, novel)
    _check_base(labels, base, recipe.task)
    rng = generator(recipe.seed, "split", attribute or "standard")
    drawn = partial(draw_balanced, labels, rng=rng, group_by_sequence=recipe.group_by_sequence)
    test_base = drawn(base, 1 - recipe.base_train_fraction)
    rest = _without(base, test_base)
    validation = drawn(rest, recipe.validation_fraction)
    test_novel = drawn(novel, recipe.novel_test_fraction, both_sides=attribute)
    split = Split(
        recipe=recipe,
        novel_categories=names,
        base_train=_without(rest, validation),
        base_validation=validation,
        test_base=test_base,
        novel_pool=_without(novel, test_novel),
        test_novel=test_novel,
    )
    split.check(labels)
    return split


def check_cover(roles: Mapping[str, Rows], usable: Rows, what: str) -> None:
    """Prove that no face has two roles and that together they are all usable faces."""
    rows = np.sort(np.concatenate([*roles.values()]))
    if len(rows) and (np.diff(rows) == 0).any():
        raise DataError(f"{what} gives a face two roles: make the split again")
    if not np.array_equal(rows, usable):
        raise DataError(f"{what} does not cover the data: make the split again")


def _usable(labels: Labels, attribute: Attribute | None) -> Rows:
    usable = labels.expression >= 0
    if attribute is not None:
        usable = usable & (labels.codes(attribute) >= 0)
    return np.flatnonzero(usable)


def _without(rows: Rows, others: Rows) -> Rows:
    return np.setdiff1d(rows, others, assume_unique=True)


def _check_labelled(labels: Labels, usable: Rows, task: Task) -> None:
    for a in ATTRIBUTES:
        if (labels.codes(a) < 0).all():
            other = "" if a == "expression" else ", or make a supervised split, which needs expressions only"
            raise DataError(
                f"{task} needs faces labelled with identity, pose and expression, and no face says its {a}: "
                f"import data that does{other}"
            )
    if not len(usable):
        raise DataError(f"{task} needs faces with both an expression and the {NOVEL_ATTRIBUTE[task]}: none has both")


def _check_base(labels: Labels, base: Rows, task: Task) -> None:
    """Comp-GAN moves base faces to another pose and another expression, after a face of another person."""
    for a, plural in PLURALS.items():
        found = [labels.names(a)[c] for c in np.unique(labels.codes(a)[base]) if c >= 0]
        if len(found) < 2:
            has = f"only {found[0]!r}" if found else "none"
            raise DataError(
                f"{task} needs base faces of at least two {plural}, and there is {has}: "
                f"import faces that are labelled with more {plural}"
            )


def _novel_categories(labels: Labels, attribute: Attribute, recipe: SplitRecipe) -> tuple[str, ...]:
    present = [labels.names(attribute)[c] for c in np.unique(labels.codes(attribute))]
    if attribute == "pose":
        return (find_novel_pose(present, recipe.novel_pose),)
    asked = recipe.novel_ids if attribute == "identity" else recipe.novel_expressions
    count = asked or max(1, round(recipe.novel_fraction * len(present)))
    if count > len(present) - 2:
        raise DataError(
            f"{recipe.task} sets {count} {PLURALS[attribute]} apart as novel and needs two for base at least, "
            f"and the data has {len(present)}: import more, or make fewer novel"
        )
    drawn = generator(recipe.seed, "novel", attribute).choice(len(present), count, replace=False)
    return tuple(present[i] for i in sorted(drawn))


def find_novel_pose(present: list[str], wanted: str | None) -> str:
    if wanted is None:
        for name in ("half_left", "left"):
            if name in present:
                return name
        raise ConfigurationError(
            f"no pose is named half_left or left: say which one is novel with novel_pose, one of {', '.join(present)}"
        )
    if wanted not in present:
        raise ConfigurationError(f"novel_pose is {wanted!r}, which no face has: {did_you_mean(wanted, present)}")
    return wanted
