"""A small attentional CNN after Deep-Emotion (arXiv 1902.01019, Minaee and others), a competitor of Tables 2 and 3.

A spatial transformer looks for the part of the face to read; four small convolutions read it. Widths are those of the
public ports; group norm stands for batch norm, so that workers need not exchange statistics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compgan_core.nets.classifier import Logits, gray


class AttentionCNNRecipe(BaseModel):
    """The shape of the attentional CNN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 10
    feature: int = 50
    side: int = 48
    """Of the gray face that it reads, in pixels."""


class AttentionCNN(nn.Module):
    """RGB faces (batch, 3, size, size) in [-1, 1] to `Logits`; the same interface as FaceClassifier."""

    def __init__(self, recipe: AttentionCNNRecipe, expressions: int, poses: int, identities: int):
        super().__init__()
        self.side, width = recipe.side, recipe.width
        self.look = nn.Sequential(
            nn.Conv2d(1, 8, 7),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(8, 10, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        after_look = ((self.side - 6) // 2 - 4) // 2
        self.where = nn.Sequential(nn.Linear(10 * after_look**2, 32), nn.ReLU(), nn.Linear(32, 6))
        self.read = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(width, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.GroupNorm(width // 5, width),
            nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        after_read = ((self.side - 4) // 2 - 4) // 2
        self.fc = nn.Linear(width * after_read**2, recipe.feature)
        self.expression = nn.Linear(recipe.feature, expressions)
        self.pose = nn.Linear(recipe.feature, poses)
        self.identity = nn.Linear(recipe.feature, identities)
        for module in (*self.look, *self.read, self.where[0], self.fc):
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # with torch's weights it does not leave chance
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():  # it begins by looking at the whole face
            self.where[-1].weight.zero_()  # type: ignore[operator]
            self.where[-1].bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))  # type: ignore[operator]

    def features(self, faces: Tensor) -> Tensor:
        """(batch, feature)."""
        x = F.interpolate(gray(faces), (self.side, self.side), mode="bilinear", align_corners=False)
        place = self.where(self.look(x)).view(-1, 2, 3)
        seen = F.grid_sample(x, F.affine_grid(place, list(x.shape), align_corners=False), align_corners=False)
        return self.fc(self.read(seen)).relu()

    def heads(self, feature: Tensor, dropout_mask: Tensor | None = None) -> Logits:
        if dropout_mask is not None:
            feature = feature * dropout_mask
        return Logits(self.expression(feature), self.pose(feature), self.identity(feature))

    def forward(self, faces: Tensor) -> Logits:
        return self.heads(self.features(faces))
