"""D_novel: the few images of each novel category that the few-shot tasks train on."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compgan_core.data.labels import ATTRIBUTES, Attribute, Labels, Rows
from compgan_core.data.splits import FEW_SHOT_TASKS, Split
from compgan_core.errors import ConfigurationError, DataError
from compgan_core.randomness import generator

ShotsPer = Literal["category", "category_x_expression"]
SWEEPS = 4  # how often each shot of a round is chosen anew, given the others: the first choices spoil later ones


def shots(labels: Labels, split: Split, k: int, draw: int, seed: int, per: ShotsPer = "category") -> Rows:
    """D_novel: k faces of every novel category from the pool, spread over the other attributes; ascending.

    For one `draw`, fewer shots are a part of more. per: "category_x_expression" takes k of every expression of every
    novel category, since one left face in all, as the paper has ER-FP, shows one expression only.
    """
    if k == 0:
        return np.empty(0, np.int64)
    if split.recipe.task not in FEW_SHOT_TASKS:
        raise ConfigurationError(
            f"{split.recipe.task} has no shots, but {k} were asked for: use 0, or one of {', '.join(FEW_SHOT_TASKS)}"
        )
    rng, pool = generator(seed, "shots", draw), split.novel_pool
    codes = np.stack([labels.codes(a)[pool] for a in ATTRIBUTES])
    used = np.zeros((len(ATTRIBUTES), codes.max() + 2), np.int64)  # the last column is of missing labels
    groups = _shot_groups(labels, split, pool, k, per)
    taken: list[int] = []
    for _ in range(k):
        chosen = _one_of_each(groups, codes, used, rng)
        taken += chosen
        groups = [members[members != one] for members, one in zip(groups, chosen, strict=True)]
    return np.sort(pool[taken])


def shot_attributes(split: Split, per: ShotsPer) -> tuple[Attribute, ...]:
    """The attributes whose every combination among the novel faces gets k shots."""
    assert split.novel_attribute is not None
    return (split.novel_attribute,) if per == "category" else (split.novel_attribute, "expression")


def _shot_groups(labels: Labels, split: Split, pool: Rows, k: int, per: ShotsPer) -> list[Rows]:
    """For each category, or category and expression, the positions in `pool` of its faces."""
    attributes = shot_attributes(split, per)
    novel = np.concatenate([pool, split.test_novel])
    table = np.stack([labels.codes(a)[novel] for a in attributes], axis=1)
    group = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(group[: len(pool)], minlength=group.max() + 1)
    if sizes.min() < k:
        row = novel[np.argmax(group == sizes.argmin())]
        named = " and the ".join(f"{a} {labels.names(a)[labels.codes(a)[row]]!r}" for a in attributes)
        raise DataError(
            f"{k} shots were asked for, but the {named} have only {sizes.min()} faces to draw from: use fewer"
        )
    order = np.argsort(group[: len(pool)], kind="stable")
    return np.split(order, np.cumsum(sizes)[:-1])


def _one_of_each(groups: list[Rows], codes: NDArray[np.int32], used: Rows, rng: np.random.Generator) -> list[int]:
    """A member of each group, such that `used` stays even: how often each category was chosen, counted on in place.

    codes: (3, n), the category of each member in each attribute.
    """
    at, chosen = np.arange(len(codes)), dict[int, int]()
    for _, (g, members) in itertools.product(range(SWEEPS), enumerate(groups)):
        if g in chosen:
            used[at, codes[:, chosen[g]]] -= 1
        load = used[at[:, None], codes[:, members]].sum(axis=0)
        chosen[g] = int(members[(load + rng.random(len(members))).argmin()])
        used[at, codes[:, chosen[g]]] += 1
    return [*chosen.values()]
