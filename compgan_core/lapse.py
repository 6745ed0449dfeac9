"""The same faces, edited time and again while Comp-GAN trains, so that a time-lapse of the training exists."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import nn

from compgan_core import transforms
from compgan_core.compgan import CompGAN, Tuples
from compgan_core.data.cache import Faces
from compgan_core.data.splits import Split
from compgan_core.data.tuples import TupleSampler
from compgan_core.training.gan import tuples_of

PEOPLE = 6
PICTURES = 40
AT_LEAST = 50  # steps between two pictures, which take about as long as a step
GAP = 2
COLUMNS = ("source", "pose wanted", "G(Pose)", "truth", "expression wanted", "G(Exp)", "truth", "both", "truth")


def due(step: int, steps: int) -> bool:
    """Whether a picture is drawn after a step: the first, the last, and about forty between, at fixed steps."""
    return step in (1, steps) or step % max(AT_LEAST, -(-steps // PICTURES)) == 0


class Lapse:
    """Draws edits of base training faces, always of the same ones."""

    def __init__(self, faces: Faces, split: Split, size: int, seed: int, device: torch.device):
        sampler = TupleSampler(faces.labels, split.base_train, seed + 3, 0.0)
        self.batch: Tuples = tuples_of(faces, sampler, size, seed + 3, device)(np.arange(PEOPLE))

    def __call__(self, networks: Mapping[str, nn.Module]) -> bytes:
        """A JPEG of `PEOPLE` rows of the faces that `COLUMNS` name. networks: "pose" and "exp", which do not change."""
        batch = self.batch
        with torch.no_grad():
            fakes = CompGAN(networks["pose"], networks["exp"])(batch.reals[0], batch.references)
        columns = (
            batch.reals[0],
            *(batch.references[0], fakes[0], batch.reals[1]),
            *(batch.references[1], fakes[1], batch.reals[2]),
            *(fakes[2], batch.reals[3]),
        )
        sheet = np.stack([transforms.to_bytes(faces) for faces in columns], axis=1)  # (people, columns, h, w, 3)
        padded = np.pad(sheet, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        rows, across, height, width, _ = padded.shape
        picture = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, across * width, 3)[:-GAP, :-GAP]
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=92)
        return file.getvalue()
