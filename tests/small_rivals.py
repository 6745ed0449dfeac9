"""Every rival at a size that trains in seconds, on tuples of noise."""

from __future__ import annotations

import numpy as np
import torch

from compgan_core.compgan import Tuples
from compgan_core.nets.gan import DiscriminatorRecipe
from compgan_core.randomness import uniform
from compgan_core.rivals import make_rival
from compgan_core.rivals.attgan import AttGANGeneratorRecipe, AttGANRecipe
from compgan_core.rivals.base import Domain
from compgan_core.rivals.cyclegan import CycleGANRecipe, ResNetRecipe
from compgan_core.rivals.layers import PatchGANRecipe
from compgan_core.rivals.pix2pix import Pix2PixRecipe, UNetRecipe
from compgan_core.rivals.vaegan import AnnealedSchedule, VAEGANNetRecipe, VAEGANRecipe
from compgan_core.training.optim import OptimizerRecipe, Schedule

DOMAIN = Domain(size=32, poses=3, expressions=4)
SGD = OptimizerRecipe(name="sgd", lr=1e-4, momentum=0.9)
SCHEDULE = Schedule(steps=7, batch=4)
PATCH = PatchGANRecipe(width=4)
RECIPES = (
    AttGANRecipe(
        generator=AttGANGeneratorRecipe(width=4, downs=3),
        discriminator=DiscriminatorRecipe(width=4, downs=3, hidden=8),
        n_d=2,
        schedule=SCHEDULE,
    ),
    CycleGANRecipe(generator=ResNetRecipe(width=4, blocks=1), discriminator=PATCH, pool=6, schedule=SCHEDULE),
    Pix2PixRecipe(generator=UNetRecipe(width=4, downs=4, dropouts=1), discriminator=PATCH, schedule=SCHEDULE),
    VAEGANRecipe(network=VAEGANNetRecipe(width=4, latent=6), schedule=AnnealedSchedule(steps=7, batch=4)),
)


def tuples(samples: np.ndarray) -> Tuples:
    """Faces of noise and labels, each a function of the sample's number."""
    numbers, n = torch.from_numpy(samples), len(samples)
    pixels = uniform(0, "faces", numbers, 12 * 3 * 32 * 32).view(n, 12, 3, 32, 32).transpose(0, 1) * 2 - 1
    u = uniform(0, "labels", numbers, 5)
    poses = torch.stack([u[:, 0] * 3, u[:, 0] * 3 + 1 + u[:, 1] * 2]).long() % 3
    expressions = torch.stack([u[:, 2] * 4, u[:, 2] * 4 + 1 + u[:, 3] * 3]).long() % 4
    return Tuples(pixels[:4], pixels[4:], poses, expressions, (u[:, 4] * 5).long())


def weights(rival) -> dict[str, torch.Tensor]:
    """All that training may change, and what is kept."""
    networks = {**rival.networks, "kept": rival.kept}
    return {f"{name}.{k}": t.clone() for name, m in networks.items() for k, t in m.state_dict().items()}


def small(recipe, seed: int = 0):
    return make_rival(recipe, DOMAIN, seed)
