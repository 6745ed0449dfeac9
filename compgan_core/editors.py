"""What makes one face of another: the interface that generators of any kind share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Wanted(NamedTuple):
    """What an edited face is to show; the identity stays."""

    pose: Tensor
    """int64 (n,), as numbers of the vocabulary."""
    expression: Tensor


class Editor(Protocol):
    """Edits faces in pose or in expression; one editor for one of the two."""

    def edit(self, source: Tensor, reference: Tensor, wanted: Wanted) -> Tensor:
        """Faces (n, 3, size, size) in [-1, 1], from sources and references, which carry what is wanted.

        An editor may go by the reference, by the labels, or by both.
        """


class ByReference:
    """G(Pose) or G(Exp): only the reference says what is wanted."""

    def __init__(self, generator: nn.Module):
        self.generator = generator

    def edit(self, source: Tensor, reference: Tensor, wanted: Wanted) -> Tensor:
        return self.generator(source, reference)
