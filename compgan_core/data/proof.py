"""What a split holds, counted, and what it must hold, proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel

from compgan_core.data.balance import recordings
from compgan_core.data.labels import ATTRIBUTES, Attribute, Labels, Rows
from compgan_core.data.shots import ShotsPer, shot_attributes
from compgan_core.data.splits import Split
from compgan_core.data.supervised import ROLES, SupervisedSplit
from compgan_core.errors import DataError


class Role(BaseModel, frozen=True):
    """The faces of one role."""

    faces: int
    distinct: dict[Attribute, int]
    """How many identities, poses and expressions occur."""
    by_category: dict[str, int]
    """Faces of each category of `Proof.counted_by`; those without any are left out."""
    imbalance: dict[Attribute, float]
    """How far the count of a category is at most from its share of the role, in faces: the share it has of all base,
    or of all novel faces, and among the shots an equal one. Below 1 they are balanced within one."""


class Proof(BaseModel, frozen=True):
    """The counts of a split whose roles are disjoint and cover its faces: whatever must hold was checked first."""

    counted_by: Attribute
    """The novel attribute, or what is recognised where nothing is novel."""
    novel_categories: tuple[str, ...]
    roles: dict[str, Role]
    without_role: int
    """Faces that lack a label which the split needs."""
    classes: int
    """Of what is recognised; chance is one over it."""
    untrained: tuple[str, ...]
    """Classes that are tested though no face of them trains, for want of one or since the source's own partition is
    so."""
    recordings: int
    """How many the data tells apart; 0 if it does not say of which recording a face is a frame."""
    leaked: int
    """Test faces whose recording also trains; near-copies of training faces, where frames follow one another."""


def prove_split(labels: Labels, split: Split, novel_train: Rows, k: int, per: ShotsPer) -> Proof:
    """Check a split and its shots, and count them. A DataError says what does not hold.

    Recordings leak within the base faces and within the novel ones: that the novel pose of ER-FP is another view of
    what the base poses show is the task.
    """
    split.check(labels)
    check_shots(labels, split, novel_train, k, per)
    base = {"base_train": split.base_train, "base_validation": split.base_validation, "test_base": split.test_base}
    unused = np.setdiff1d(split.novel_pool, novel_train, assume_unique=True)
    novel = {"novel_train": novel_train, "novel_unused": unused, "test_novel": split.test_novel}
    sides = [(split.base_train, split.test_base), (novel_train, split.test_novel)]
    counted_by = split.novel_attribute or "expression"
    return _proof(labels, [base, novel], sides, counted_by, "expression", split.novel_categories)


def prove_supervised(labels: Labels, split: SupervisedSplit) -> Proof:
    """The same for a supervised split."""
    split.check(labels)
    roles = {role: getattr(split, role) for role in ROLES}
    of = split.recipe.of
    return _proof(labels, [roles], [(split.train, split.test)], of, of, ())


def check_shots(labels: Labels, split: Split, novel_train: Rows, k: int, per: ShotsPer) -> None:
    """Prove that the shots are of the pool and exactly k of every novel category, none at all for k = 0."""
    if not np.isin(novel_train, split.novel_pool).all() or len(np.unique(novel_train)) != len(novel_train):
        raise DataError(f"a shot of {split.recipe.task} is drawn twice, or may not train: draw the shots again")
    if k == 0:
        exact = not len(novel_train)
    else:
        attributes, novel = shot_attributes(split, per), np.concatenate([split.novel_pool, split.test_novel])
        counts = _combinations(labels, novel_train, attributes)
        exact = len(counts) == len(_combinations(labels, novel, attributes)) and bool((counts == k).all())
    if not exact:
        raise DataError(f"the shots of {split.recipe.task} are not {k} of each novel {per}: draw the shots again")


def leaked(labels: Labels, train: Rows, test: Rows) -> int:
    """How many test faces are frames of a recording that also trains."""
    of = recordings(labels, np.concatenate([train, test]))
    seen = of[: len(train)]
    return int(np.isin(of[len(train) :], seen[seen >= 0]).sum())


def _proof(
    labels: Labels,
    parts: Sequence[Mapping[str, Rows]],
    sides: Sequence[tuple[Rows, Rows]],
    counted_by: Attribute,
    of: Attribute,
    novel_categories: tuple[str, ...],
) -> Proof:
    """parts: roles by name; a role is compared with all faces of its part. sides: what trains, and what it is for."""
    roles: dict[str, Role] = {}
    for part in parts:
        whole = np.concatenate([*part.values()])
        roles |= {name: _role(labels, rows, whole, counted_by, name == "novel_train") for name, rows in part.items()}
    rows = np.concatenate([rows for part in parts for rows in part.values()])
    classes = labels.codes(of)
    train, test = (np.concatenate([classes[side[i]] for side in sides]) for i in (0, 1))
    known = recordings(labels, rows)
    return Proof(
        counted_by=counted_by,
        novel_categories=novel_categories,
        roles=roles,
        without_role=len(labels) - len(rows),
        classes=len(np.unique(classes[rows])),
        untrained=tuple(labels.names(of)[c] for c in np.setdiff1d(test, train)),
        recordings=len(np.unique(known[known >= 0])),
        leaked=sum(leaked(labels, *side) for side in sides),
    )


def _role(labels: Labels, rows: Rows, whole: Rows, counted_by: Attribute, even: bool) -> Role:
    """even: the categories that occur in `whole` should have equal shares, instead of those that they have there."""
    counts = {a: np.bincount(labels.codes(a)[rows] + 1, minlength=len(labels.names(a)) + 1) for a in ATTRIBUTES}
    imbalance = {}
    for a in ATTRIBUTES:
        weights = np.bincount(labels.codes(a)[whole] + 1, minlength=len(counts[a]))
        weights = np.minimum(weights, 1) if even else weights
        share = weights * len(rows) / max(weights.sum(), 1)
        imbalance[a] = round(float(np.abs(counts[a] - share).max()), 3)
    named = zip(labels.names(counted_by), counts[counted_by][1:].tolist(), strict=True)
    return Role(
        faces=len(rows),
        distinct={a: int((counts[a][1:] > 0).sum()) for a in ATTRIBUTES},
        by_category={name: count for name, count in named if count},
        imbalance=imbalance,
    )


def _combinations(labels: Labels, rows: Rows, attributes: tuple[Attribute, ...]) -> Rows:
    """How often each combination of these attributes occurs that does."""
    table = np.stack([labels.codes(a)[rows] for a in attributes], axis=1)
    return np.unique(table, axis=0, return_counts=True)[1].astype(np.int64)
