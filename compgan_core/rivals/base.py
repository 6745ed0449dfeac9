"""What a rival is: an editor of faces, the networks that are trained, and one update of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from compgan_core.compgan import CALLS, TARGET, Tuples
from compgan_core.data.labels import Labels, Rows
from compgan_core.editors import Editors, Looks
from compgan_core.training.loop import Update
from compgan_core.training.runtime import Runtime

Edited = Literal["pose", "exp"]
"""The attribute that an edit changes, by the paper's names of the generators."""
EDITED: tuple[Edited, ...] = ("pose", "exp")


class Domain(NamedTuple):
    """The faces that a rival is built for."""

    size: int
    poses: int
    expressions: int

    @classmethod
    def of(cls, labels: Labels, size: int) -> Domain:
        return cls(size, len(labels.poses), len(labels.expressions))


class Rival(Protocol):
    """A method of editing faces, ready to be trained."""

    kept: nn.Module
    """What is left after training."""
    editors: Editors
    """Made of what is kept."""
    networks: Mapping[str, nn.Module]
    """What is trained, each by an engine of its own."""
    moving: Callable[[Mapping[str, float]], Collection[str]] | None
    """Which networks may move, given the metrics' means over all workers; None where all always may."""

    def update(self, batch: Tuples, samples: np.ndarray, step: int, runtime: Runtime) -> Update:
        """Losses and gradients of this worker's share; networks without gradients do not move. Collective.

        samples: int64 (n,), the numbers of the tuples of this share.
        """

    def complete(self, runtime: Runtime, load: Callable[[Rows], Tensor], labels: Labels, rows: Rows) -> None:
        """Put into what is kept what it needs besides weights, from its training rows. Collective."""


class Edit(NamedTuple):
    """One edit of the source of each tuple, as Comp-GAN's first call of that generator makes it."""

    reference: Tensor
    truth: Tensor
    back: Tensor
    """A reference with the source's own value of the edited attribute."""
    wanted: Looks


def edits_of(batch: Tuples) -> dict[Edited, Edit]:
    """The pose edit and the expression edit of each tuple's source."""
    found = {}
    for edited in EDITED:
        calls = [i for i, call in enumerate(CALLS) if call.generator == edited]
        there = next(i for i in calls if CALLS[i].source < 0)
        back = next(i for i in calls if CALLS[i].cell == "ps_es")
        wanted = Looks(batch.pose[int(edited == "pose")], batch.expression[int(edited == "exp")])
        found[edited] = Edit(batch.references[there], batch.reals[TARGET[there]], batch.references[back], wanted)
    return found


def known_values(labels: Labels, rows: Rows) -> tuple[Tensor, Tensor]:
    """Which poses, and which expressions, occur in the rows: bool (poses,) and (expressions,)."""
    poses, expressions = (torch.zeros(len(labels.names(a)), dtype=torch.bool) for a in ("pose", "expression"))
    poses[np.unique(labels.pose[rows])] = True
    expressions[np.unique(labels.expression[rows])] = True
    return poses, expressions
