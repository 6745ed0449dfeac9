"""What is known of each face: identity, pose and expression, as numbers into fixed vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compgan_core.errors import ConfigurationError, DataError, did_you_mean
from compgan_core.randomness import generator

Attribute = Literal["identity", "pose", "expression"]
ATTRIBUTES: tuple[Attribute, ...] = ("identity", "pose", "expression")
COLUMNS = (*ATTRIBUTES, "sequence", "frame", "key", "partition")
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of n faces. Row r of every array belongs to the same face.

    Vocabularies are sorted by name. A label is a position in its vocabulary; -1 means that the source does not say.
    """

    identities: tuple[str, ...]
    poses: tuple[str, ...]
    expressions: tuple[str, ...]
    identity: NDArray[np.int32]
    """(n,)"""
    pose: NDArray[np.int32]
    """(n,)"""
    expression: NDArray[np.int32]
    """(n,)"""
    sequence: NDArray[np.str_]
    """(n,) the recording a face is a frame of; empty when unknown."""
    frame: NDArray[np.int32]
    """(n,) the number of the frame; views taken at the same instant share it."""
    key: NDArray[np.str_]
    """(n,) the unique name of the face in its source."""
    partition: NDArray[np.str_]
    """(n,) the side of the split that the source itself puts the face on: train, validation, test, or empty."""

    @classmethod
    def from_names(
        cls,
        identity: Sequence[str],
        pose: Sequence[str],
        expression: Sequence[str],
        sequence: ArrayLike,
        frame: ArrayLike,
        key: ArrayLike,
        partition: ArrayLike | None = None,
    ) -> Labels:
        """Labels by name, one a face; an empty name is a missing label, and no partition is an empty one."""
        identities, identity_codes = _encode(identity)
        poses, pose_codes = _encode(pose)
        expressions, expression_codes = _encode(expression)
        return cls(
            identities,
            poses,
            expressions,
            identity_codes,
            pose_codes,
            expression_codes,
            np.asarray(sequence, dtype=np.str_),
            np.asarray(frame, dtype=np.int32),
            np.asarray(key, dtype=np.str_),
            np.asarray([""] * len(identity) if partition is None else partition, dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.key)

    def codes(self, attribute: Attribute) -> NDArray[np.int32]:
        """The (n,) numbers of one attribute."""
        return {"identity": self.identity, "pose": self.pose, "expression": self.expression}[attribute]

    def names(self, attribute: Attribute) -> tuple[str, ...]:
        """The vocabulary of one attribute."""
        return {"identity": self.identities, "pose": self.poses, "expression": self.expressions}[attribute]

    def take(self, rows: Rows) -> Labels:
        """The labels of these rows, in this order, with the same vocabularies."""
        return replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})

    def named(self, attribute: Attribute) -> list[str]:
        """The (n,) names of one attribute, empty where missing."""
        return [*np.array([*self.names(attribute), ""], dtype=object)[self.codes(attribute)]]

    def compact(self) -> Labels:
        """The same faces, with vocabularies that hold only what occurs."""
        names = {a: self.named(a) for a in ATTRIBUTES}
        return Labels.from_names(**names, **{name: getattr(self, name) for name in COLUMNS if name not in names})

    def recode(self, like: Labels) -> Labels:
        """The same faces, with the vocabularies of `like`; a DataError if it lacks a name that occurs here."""
        codes = {}
        for attribute in ATTRIBUTES:
            position = {name: i for i, name in enumerate(like.names(attribute))} | {"": -1}
            if unknown := set(self.named(attribute)) - position.keys():
                raise DataError(
                    f"the {attribute} {min(unknown)!r} does not occur in the data that these faces should belong to: "
                    "make them again from this data"
                )
            codes[attribute] = np.array([position[name] for name in self.named(attribute)], dtype=np.int32)
        return replace(
            self,
            identities=like.identities,
            poses=like.poses,
            expressions=like.expressions,
            identity=codes["identity"],
            pose=codes["pose"],
            expression=codes["expression"],
        )

    def rows_with(self, attribute: Attribute, names: Iterable[str]) -> Rows:
        """The rows whose label is one of these names, ascending. An unknown name is a ConfigurationError."""
        vocabulary = list(self.names(attribute))
        for name in names:
            if name not in vocabulary:
                hint = did_you_mean(name, vocabulary)
                raise ConfigurationError(f"no face has the {attribute} {name!r}: {hint}")
        return np.flatnonzero(np.isin(self.codes(attribute), [vocabulary.index(name) for name in names]))

    def cells(self) -> Mapping[tuple[int, int, int], Rows]:
        """(identity, pose, expression) -> its rows, ascending. Faces that lack a label are in no cell."""
        table = np.stack([self.identity, self.pose, self.expression], axis=1)
        complete = np.flatnonzero((table >= 0).all(axis=1))
        if not len(complete):
            return {}
        order = complete[np.lexsort(table[complete].T[::-1])]
        starts = np.flatnonzero(np.any(np.diff(table[order], axis=0, prepend=-1) != 0, axis=1))
        groups = np.split(order, starts[1:])
        return {(int(i), int(p), int(e)): rows for (i, p, e), rows in zip(table[order[starts]], groups, strict=True)}


def choose_expressions(expressions: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """`count` of the expressions drawn by seed, sorted; all of them when count is 0 or more than there are."""
    if not 0 < count < len(expressions):
        return tuple(expressions)
    drawn = generator(seed, "expressions").choice(len(expressions), count, replace=False)
    return tuple(expressions[i] for i in sorted(drawn))


def check_trainable(labels: Labels) -> None:
    """Comp-GAN moves a face to another pose and another expression, after a face of another person."""
    plurals: dict[Attribute, str] = {"pose": "poses", "expression": "expressions", "identity": "identities"}
    for attribute, plural in plurals.items():
        found = [labels.names(attribute)[c] for c in np.unique(labels.codes(attribute)) if c >= 0]
        if len(found) < 2:
            has = f"only {found[0]!r}" if found else f"no {attribute} label at all"
            raise DataError(
                f"training needs at least two {plural}, and the data has {has}: "
                f"import faces that are labelled with more {plural}"
            )


def _encode(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    vocabulary = sorted(set(names) - {""})
    code = {name: i for i, name in enumerate(vocabulary)} | {"": -1}
    return tuple(vocabulary), np.fromiter((code[name] for name in names), dtype=np.int32, count=len(names))
