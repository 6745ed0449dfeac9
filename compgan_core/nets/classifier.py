"""F_cls: one LightCNN trunk and three heads (expression, pose, identity) on its feature (Sec. 4.3)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from compgan_core.nets.lightcnn import LightCNN, LightCNNRecipe


class Logits(NamedTuple):
    """One row a face; columns in the order of the data set's vocabulary."""

    expression: Tensor
    pose: Tensor
    identity: Tensor


class FaceClassifier(nn.Module):
    """Predicts expression, pose and identity at once.

    faces: RGB (batch, 3, size, size) in [-1, 1]; the trunk sees them gray in [0, 1].
    """

    def __init__(self, recipe: LightCNNRecipe, size: int, expressions: int, poses: int, identities: int):
        super().__init__()
        self.trunk = LightCNN(recipe, size)
        self.expression = nn.Linear(recipe.feature, expressions)
        self.pose = nn.Linear(recipe.feature, poses)
        self.identity = nn.Linear(recipe.feature, identities)

    def heads(self, feature: Tensor, dropout_mask: Tensor | None = None) -> Logits:
        """Logits from the feature (batch, feature). dropout_mask: the same shape, zeros and 1/keep."""
        if dropout_mask is not None:
            feature = feature * dropout_mask
        return Logits(self.expression(feature), self.pose(feature), self.identity(feature))

    def maps_and_logits(self, faces: Tensor) -> tuple[list[Tensor], Logits]:
        """The four pooled maps of the perceptual loss, and the logits, from one pass."""
        maps = self.trunk.maps(gray(faces))
        return maps, self.heads(self.trunk.feature(maps[-1]))

    def features(self, faces: Tensor) -> Tensor:
        """(batch, feature)."""
        return self.trunk.feature(self.trunk.maps(gray(faces))[-1])

    def forward(self, faces: Tensor, dropout_mask: Tensor | None = None) -> Logits:
        return self.heads(self.features(faces), dropout_mask)


class AttributeClassifier(nn.Module):
    """The same trunk, and one logit for each binary attribute, such as CelebA's 40."""

    def __init__(self, recipe: LightCNNRecipe, size: int, attributes: int):
        super().__init__()
        self.trunk = LightCNN(recipe, size)
        self.attributes = nn.Linear(recipe.feature, attributes)

    def forward(self, faces: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        """Logits (batch, attributes) of faces as FaceClassifier's. dropout_mask: on the feature, zeros and 1/keep."""
        feature = self.trunk.feature(self.trunk.maps(gray(faces))[-1])
        return self.attributes(feature if dropout_mask is None else feature * dropout_mask)


def gray(faces: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in [0, 1] of RGB in [-1, 1]; (batch, 3, h, w) -> (batch, 1, h, w), differentiable."""
    red, green, blue = faces.unbind(1)
    luma = (0.299 * red).add(green, alpha=0.587).add(blue, alpha=0.114)
    return (luma / 2 + 0.5)[:, None]
