"""The six recognition tasks of section 4.1: which faces train, which test, and which categories are novel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, field_validator

from compgan_core.data.balance import balanced_sample
from compgan_core.data.files import write_last
from compgan_core.data.labels import ATTRIBUTES, Attribute, Labels, Rows, check_trainable
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
Fraction = Annotated[float, Field(gt=0, lt=1)]


class SplitRecipe(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides a split. Tasks with the same novel attribute and seed share their split."""

    task: Task
    seed: int = 0
    novel_fraction: Fraction = 0.2
    """Share of the identities, or of the expressions, that is novel."""
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
        rows = np.concatenate([getattr(self, role) for role in ROLES])
        if len(np.unique(rows)) != len(rows):
            raise DataError(f"the {self.recipe.task} split gives a face two roles: make the split again")
        if not np.array_equal(np.sort(rows), _usable(labels, self.novel_attribute)):
            raise DataError(f"the {self.recipe.task} split does not cover the data: make the split again")
        if self.novel_attribute is None:
            return
        novel = labels.rows_with(self.novel_attribute, self.novel_categories)
        if not np.array_equal(np.sort(np.concatenate([self.novel_pool, self.test_novel])), novel):
            raise DataError(f"the {self.recipe.task} split mixes base and novel categories: make the split again")
        tested = {labels.names(self.novel_attribute)[c] for c in labels.codes(self.novel_attribute)[self.test_novel]}
        if untested := sorted(set(self.novel_categories) - tested):
            raise DataError(
                f"the novel {self.novel_attribute} {untested[0]!r} has too few faces to test on: it needs two at least"
            )

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
    """
    attribute = NOVEL_ATTRIBUTE[recipe.task]
    rows = _usable(labels, attribute)
    names: tuple[str, ...] = ()
    novel: Rows = np.empty(0, np.int64)
    if attribute is not None:
        names = _novel_categories(labels.take(rows), attribute, recipe)
        novel = np.intersect1d(rows, labels.rows_with(attribute, names))
    base = np.setdiff1d(rows, novel)
    check_trainable(labels.take(base))
    rng = generator(recipe.seed, "split", attribute or "standard")
    test_base = _draw(labels, base, 1 - recipe.base_train_fraction, recipe, rng)
    rest = np.setdiff1d(base, test_base)
    validation = _draw(labels, rest, recipe.validation_fraction, recipe, rng)
    test_novel = _draw(labels, novel, recipe.novel_test_fraction, recipe, rng, both_sides=attribute)
    split = Split(
        recipe=recipe,
        novel_categories=names,
        base_train=np.setdiff1d(rest, validation),
        base_validation=validation,
        test_base=test_base,
        novel_pool=np.setdiff1d(novel, test_novel),
        test_novel=test_novel,
    )
    split.check(labels)
    return split


def shots(labels: Labels, split: Split, k: int, draw: int, seed: int, per_expression: bool = False) -> Rows:
    """k faces of every novel category from the pool, spread over the other attributes; ascending.

    For one `draw`, fewer shots are a part of more. per_expression: k of every category x expression instead, since
    one left face in all, as ER-FP has it literally, shows one expression only.
    """
    if k == 0:
        return np.empty(0, np.int64)
    if split.recipe.task not in FEW_SHOT_TASKS:
        raise ConfigurationError(
            f"{split.recipe.task} has no shots, but {k} were asked for: use 0, or one of {', '.join(FEW_SHOT_TASKS)}"
        )
    assert split.novel_attribute is not None
    pool = generator(seed, "shots", draw).permutation(split.novel_pool)
    wanted = ("expression",) if per_expression else ()
    group = _group(labels, pool, (split.novel_attribute, *wanted))
    if (few := np.bincount(group).min()) < k:
        raise DataError(f"{k} shots were asked for, but a novel category has only {few} faces to draw from: use fewer")
    used = {a: np.zeros(len(labels.names(a)) + 1, int) for a in ATTRIBUTES}
    taken: list[int] = []
    left = np.ones(len(pool), dtype=bool)
    for _ in range(k):
        for g in range(group.max() + 1):
            candidates = np.flatnonzero(left & (group == g))
            load = sum(used[a][labels.codes(a)[pool[candidates]]] for a in ATTRIBUTES)
            chosen = candidates[np.argmin(load)]
            left[chosen] = False
            taken.append(pool[chosen])
            for a in ATTRIBUTES:
                used[a][labels.codes(a)[pool[chosen]]] += 1
    return np.sort(np.array(taken, dtype=np.int64))


def _usable(labels: Labels, attribute: Attribute | None) -> Rows:
    usable = labels.expression >= 0
    if attribute is not None:
        usable = usable & (labels.codes(attribute) >= 0)
    return np.flatnonzero(usable)


def _novel_categories(labels: Labels, attribute: Attribute, recipe: SplitRecipe) -> tuple[str, ...]:
    present = [labels.names(attribute)[c] for c in np.unique(labels.codes(attribute))]
    if attribute == "pose":
        return (_novel_pose(present, recipe.novel_pose),)
    count = max(1, round(recipe.novel_fraction * len(present)))
    drawn = generator(recipe.seed, "novel", attribute).choice(len(present), count, replace=False)
    return tuple(present[i] for i in sorted(drawn))


def _novel_pose(present: list[str], wanted: str | None) -> str:
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


def _draw(
    labels: Labels,
    rows: Rows,
    fraction: float,
    recipe: SplitRecipe,
    rng: np.random.Generator,
    both_sides: Attribute | None = None,
) -> Rows:
    """A `fraction` of the rows, balanced over all three attributes, that leaves at least one of every category.

    both_sides: every category of this attribute also gives a row, where it has two; the others may lose all of theirs.
    """
    if not len(rows) or not fraction:
        return np.empty(0, np.int64)
    unit = _units(labels, rows, recipe.group_by_sequence)
    first = rows[np.unique(unit, return_index=True)[1]]
    codes = {a: np.unique(labels.codes(a)[first], return_inverse=True)[1] for a in ATTRIBUTES}
    taken = balanced_sample(np.stack([*codes.values()], axis=1), fraction, rng)
    if both_sides:
        _give_each(codes[both_sides], taken, True, 2, rng)
    for attribute in (both_sides,) if both_sides else ATTRIBUTES:
        _give_each(codes[attribute], taken, False, 1, rng)
    return rows[taken[unit]]


def _units(labels: Labels, rows: Rows, group_by_sequence: bool) -> Rows:
    """The number of the unit, drawn as a whole, that each row belongs to."""
    own = np.arange(len(rows))
    if not group_by_sequence:
        return own
    sequence = np.unique(labels.sequence[rows], return_inverse=True)[1]
    alone = labels.sequence[rows] == ""
    groups = np.stack([labels.identity[rows], sequence, np.where(alone, own, -1)], axis=1)
    return np.unique(groups, axis=0, return_inverse=True)[1].reshape(-1)


def _group(labels: Labels, rows: Rows, attributes: tuple[Attribute, ...]) -> Rows:
    table = np.stack([labels.codes(a)[rows] for a in attributes], axis=1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def _give_each(category: Rows, taken: NDArray[np.bool_], side: bool, at_least: int, rng: np.random.Generator) -> None:
    """Put one unit of every category on this side of `taken`, in place, where the category has `at_least` units."""
    sizes, on_side = np.bincount(category), np.bincount(category, weights=taken == side)
    for missing in np.flatnonzero((sizes >= at_least) & (on_side == 0)):
        taken[rng.choice(np.flatnonzero(category == missing))] = side
