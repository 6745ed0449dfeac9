"""What makes one face of another: the interface that generators of any kind share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Looks(NamedTuple):
    """What faces show besides who they are."""

    pose: Tensor
    """int64 (n,), as numbers of the vocabulary."""
    expression: Tensor
    """Likewise."""


class Editor(Protocol):
    """Edits faces in pose or in expression; one editor for one of the two."""

    def edit(self, source: Tensor, reference: Tensor, has: Looks, wanted: Looks) -> Tensor:
        """Faces (n, 3, size, size) in [-1, 1], from sources and references, which carry what is wanted.

        has: of the sources. wanted: of the result; the identity stays. An editor may go by the reference, by the
        labels, or by both.
        """


Editors = Mapping[str, Editor]
"""Of pose and of expression, by the paper's names of the generators: "pose" and "exp"."""


class ByReference:
    """G(Pose) or G(Exp): only the reference says what is wanted."""

    def __init__(self, generator: nn.Module):
        self.generator = generator

    def edit(self, source: Tensor, reference: Tensor, has: Looks, wanted: Looks) -> Tensor:
        return self.generator(source, reference)
