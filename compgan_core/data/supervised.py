"""The plain splits of section 5.1, without novel categories: train, validation, test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from compgan_core.data.balance import draw
from compgan_core.data.labels import Attribute, Labels, Rows
from compgan_core.data.splits import check_cover
from compgan_core.errors import ConfigurationError, DataError, did_you_mean
from compgan_core.randomness import generator

Amount = Annotated[float, Field(ge=0)]
ROLES = ("train", "validation", "test")


class SupervisedRecipe(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides a supervised split."""

    method: Literal["partition", "random", "one_each"]
    """partition: as the source has it. random: by seed, balanced over all attributes that are known. one_each: one face
    of every class of every person tests, so people are tested whose other faces train."""
    of: Attribute = "expression"
    """What is to be recognised; faces without a label of it get no role."""
    seed: int = 0
    test: Amount = 0.2
    """Of a random split: below 1 a share of the faces, from 1 on a number of them."""
    validation: Amount = 0.1
    """Unless the source has it: the same of the faces that do not test."""
    group_by_sequence: bool = False
    """Keep the frames of a recording together where the draw is random; numbers then hold roughly."""


# Section 5.1 gives the numbers. CelebA is what the classifier is pre-trained on (section 5.2): its own partition shares
# no identity between its sides, so it cannot hold out faces of the people that are to be recognised.
SUPERVISED = {
    "partition": SupervisedRecipe(method="partition"),
    "random": SupervisedRecipe(method="random"),
    "jaffe": SupervisedRecipe(method="one_each", validation=23 / 143),
    "f2ed": SupervisedRecipe(method="random", test=44_719 / 219_719, validation=0),
    "celeba": SupervisedRecipe(method="random", of="identity", test=0.1, validation=0),
}


def supervised_recipe(name: str, seed: int = 0, overrides: Mapping[str, str] | None = None) -> SupervisedRecipe:
    """One of SUPERVISED with another seed and other fields. ConfigurationError: an unknown name, field or value."""
    if name not in SUPERVISED:
        raise ConfigurationError(f"there is no supervised split {name!r}: {did_you_mean(name, list(SUPERVISED))}")
    fields = list(SupervisedRecipe.model_fields)
    for field in overrides or {}:
        if field not in fields:
            raise ConfigurationError(f"a supervised split has no {field!r}: {did_you_mean(field, fields)}")
    try:
        return SupervisedRecipe.model_validate({**SUPERVISED[name].model_dump(), "seed": seed, **(overrides or {})})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"{first['loc'][0]}={first['input']!r}: {first['msg']}") from error


@dataclass(frozen=True, eq=False)
class SupervisedSplit:
    """The rows of each role, ascending: disjoint, and together every face that the recipe can use."""

    recipe: SupervisedRecipe
    train: Rows
    validation: Rows
    test: Rows

    def check(self, labels: Labels) -> None:
        """Prove that the roles are disjoint, cover all usable faces, and that none is empty which must not be."""
        roles = {role: getattr(self, role) for role in ROLES}
        check_cover(roles, _usable(labels, self.recipe), "the supervised split")
        for role in ("train", "test"):
            if not len(roles[role]):
                raise DataError(
                    f"the {self.recipe.method} split has no face to {role} on: choose another split, or import more"
                )


def make_supervised_split(labels: Labels, recipe: SupervisedRecipe) -> SupervisedSplit:
    """Draw a supervised split, or read the source's own. A DataError says what the data lacks for it."""
    usable = _usable(labels, recipe)
    if not len(usable):
        needs = {"partition": " and a partition of the source's own", "one_each": " and an identity"}
        raise DataError(
            f"the {recipe.method} split needs faces with an {recipe.of}{needs.get(recipe.method, '')}: no face has that"
        )
    if recipe.method == "partition":
        sides = labels.partition[usable]
        split = SupervisedSplit(recipe, *(usable[sides == role] for role in ROLES))
    else:
        rng = generator(recipe.seed, "supervised", recipe.method, recipe.of)
        test = (_one_each if recipe.method == "one_each" else _share)(labels, usable, "test", recipe, rng)
        rest = np.setdiff1d(usable, test, assume_unique=True)
        validation = _share(labels, rest, "validation", recipe, rng)
        split = SupervisedSplit(recipe, np.setdiff1d(rest, validation, assume_unique=True), validation, test)
    split.check(labels)
    return split


def _usable(labels: Labels, recipe: SupervisedRecipe) -> Rows:
    usable = labels.codes(recipe.of) >= 0
    if recipe.method == "partition":
        usable = usable & (labels.partition != "")
    if recipe.method == "one_each":
        usable = usable & (labels.identity >= 0)
    return np.flatnonzero(usable)


def _one_each(labels: Labels, rows: Rows, role: str, recipe: SupervisedRecipe, rng: np.random.Generator) -> Rows:
    """One face of every class of every person."""
    classes = labels.codes(recipe.of)
    shuffled = rng.permutation(rows)
    cell = np.stack([labels.identity[shuffled], classes[shuffled]], axis=1)
    chosen = np.sort(shuffled[np.unique(cell, axis=0, return_index=True)[1]])
    rest = np.setdiff1d(rows, chosen, assume_unique=True)
    if len(lost := np.setdiff1d(classes[chosen], classes[rest])):
        raise DataError(
            f"one face of every person is kept to {role} the {recipe.of} {labels.names(recipe.of)[lost[0]]!r}, "
            "and none is left to train it: make a random split"
        )
    return chosen


def _share(labels: Labels, rows: Rows, role: str, recipe: SupervisedRecipe, rng: np.random.Generator) -> Rows:
    """A share or a number of the rows, as the recipe has it for this role."""
    amount: float = getattr(recipe, role)
    fraction = amount if amount < 1 else amount / max(len(rows), 1)
    if fraction >= 1:
        raise DataError(f"{role} is {amount:g}, and there are {len(rows)} faces, some of which must train: use fewer")
    return draw(labels, rows, fraction, rng, group_by_sequence=recipe.group_by_sequence)
