"""The judge: reads expression, pose and identity of synthesized faces, and never supervised a generator.

Another architecture than F_cls (colour, plain convolutions, group norm), trained from another seed on degraded faces,
so that neither a blur nor the patterns that fool F_cls decide what it reads.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compgan_core.nets.classifier import Logits


class JudgeNetRecipe(BaseModel):
    """The shape of the judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 32
    downs: int = 5
    feature: int = 256


class Judge(nn.Module):
    """RGB faces (batch, 3, size, size) in [-1, 1] to `Logits`; the same interface as FaceClassifier."""

    def __init__(self, recipe: JudgeNetRecipe, size: int, expressions: int, poses: int, identities: int):
        super().__init__()
        widths = [3, *(min(recipe.width << i, 8 * recipe.width) for i in range(recipe.downs))]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [*_layer(n_in, n_out, 1), *_layer(n_out, n_out, 2)]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Sequential(nn.Linear(widths[-1] * (size >> recipe.downs) ** 2, recipe.feature), nn.ReLU())
        self.expression = nn.Linear(recipe.feature, expressions)
        self.pose = nn.Linear(recipe.feature, poses)
        self.identity = nn.Linear(recipe.feature, identities)

    def maps(self, faces: Tensor) -> list[Tensor]:
        """The maps (batch, channels, h, w) after each halving, the largest first."""
        found = []
        for layer in self.trunk.children():
            faces = layer(faces)
            if isinstance(layer, nn.ReLU):
                found.append(faces)
        return found[1::2]

    def features(self, faces: Tensor) -> Tensor:
        return self.fc(self.trunk(faces))

    def heads(self, feature: Tensor, dropout_mask: Tensor | None = None) -> Logits:
        if dropout_mask is not None:
            feature = feature * dropout_mask
        return Logits(self.expression(feature), self.pose(feature), self.identity(feature))

    def forward(self, faces: Tensor) -> Logits:
        return self.heads(self.features(faces))


def _layer(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False), nn.GroupNorm(8, n_out), nn.ReLU()]
