"""What the classifier sees of a face: the face, the face turned to the front, or five features (the rows of Table 5).

A face is turned by G(Pose) after references that no label of the face chose: its expression is what is asked for.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compgan_core.data.cache import Faces
from compgan_core.data.labels import Labels, Rows
from compgan_core.data.splits import Split
from compgan_core.errors import DataError
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.randomness import generator
from compgan_core.synthesize import load
from compgan_core.training.optim import OptimizerRecipe, ScheduleRecipe

ViewKind = Literal["plain", "front", "combined"]
FRONT = "front"


class HeadRecipe(BaseModel):
    """The expression head on turned faces, and how faces are turned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    references: int = Field(1, ge=1)
    """Reference faces of each pose; features are averaged over them."""
    keep_posed: bool = False
    """A face that the classifier reads as having the asked pose is not turned to it."""
    schedule: ScheduleRecipe = ScheduleRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    dropout: float = Field(0.5, ge=0, lt=1)


class PoseBank(NamedTuple):
    """References of each pose that no label of the image in hand chose; the same for training and test."""

    rows: list[Rows]
    """By pose of the vocabulary; empty where no training image has that pose."""


def pose_bank(labels: Labels, split: Split, references: int, seed: int) -> PoseBank:
    """`references` base training rows of each pose, neutral ones where there are any."""
    neutral = labels.expressions.index("neutral") if "neutral" in labels.expressions else -1
    rows = []
    for pose in range(len(labels.poses)):
        of_pose = split.base_train[labels.pose[split.base_train] == pose]
        calm = of_pose[labels.expression[of_pose] == neutral]
        choice = calm if len(calm) >= references else of_pose
        rng = generator(seed, "pose bank", pose)
        rows.append(rng.choice(choice, size=min(references, len(choice)), replace=False) if len(choice) else choice)
    return PoseBank(rows)


def load_bank(faces: Faces, bank: PoseBank, size: int, device: torch.device) -> Tensor:
    """(poses, references, 3, size, size), NaN where a pose has no reference."""
    count = max(len(rows) for rows in bank.rows)
    loaded = torch.full((len(bank.rows), count, 3, size, size), float("nan"), device=device)
    for pose, rows in enumerate(bank.rows):
        if len(rows):
            loaded[pose] = load(faces, np.resize(rows, count), size, device)
    return loaded


class View:
    """From faces to the features that a head reads."""

    def __init__(
        self,
        kind: ViewKind,
        classifier: FaceClassifier,
        g_pose: nn.Module,
        bank: Tensor,
        poses: tuple[str, ...],
        keep_posed: bool = False,
    ):
        """bank: (poses, references, 3, size, size). Raises DataError for the front of a data set without that pose."""
        self.kind, self.classifier, self.g_pose, self.bank, self.keep_posed = kind, classifier, g_pose, bank, keep_posed
        self.turned = turned_to(kind, poses)

    def __call__(self, faces: Tensor) -> Tensor:
        """Faces (n, 3, size, size) to features (n, width)."""
        plain = self.classifier.features(faces)
        columns = [] if self.kind == "front" else [plain]
        return torch.cat(columns + [self._turned(faces, plain, pose) for pose in self.turned], dim=1)

    def _turned(self, faces: Tensor, plain: Tensor, pose: int) -> Tensor:
        """The features of faces turned to a pose; those of the faces where no training image has that pose."""
        references = self.bank[pose]
        if torch.isnan(references).any():
            return plain
        turned = [self.classifier.features(self.g_pose(faces, r.expand_as(faces))) for r in references]
        mean = torch.stack(turned).mean(0)
        if not self.keep_posed:
            return mean
        posed = self.classifier.heads(plain).pose.argmax(1) == pose
        return torch.where(posed[:, None], plain, mean)


def turned_to(kind: ViewKind, poses: tuple[str, ...]) -> list[int]:
    """The poses that a view turns faces to, by number. Raises DataError if one is not in the data set."""
    if kind == "plain":
        return []
    if kind == "combined":
        return [*range(len(poses))]
    if FRONT not in poses:
        raise DataError(
            f"faces cannot be turned to the pose {FRONT!r}, since the data set has {', '.join(poses)}: "
            "leave the variant 'front' out"
        )
    return [poses.index(FRONT)]


def width(kind: ViewKind, poses: tuple[str, ...]) -> int:
    """How many features stand side by side."""
    return len(turned_to(kind, poses)) + (kind != "front")
