"""CycleGAN (Zhu et al., ICCV 2017), one model for each attribute, with a reference in place of a pair of domains.

After the authors' pytorch-CycleGAN-and-pix2pix: ResNet generators, PatchGAN, least squares, cycle and identity L1, and
the image pool. 54 x 4 domains would need thousands of generators; here one generator goes to the domain of any
reference, and comes back by a reference of the source's. Its discriminator sees the reference too: with two domains it
is the discriminator of the other domain that asks for a change, and one of all domains would be content with none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compgan_core.compgan import Tuples
from compgan_core.data.labels import Labels, Rows
from compgan_core.editors import ByReference
from compgan_core.randomness import seeded
from compgan_core.rivals.base import EDITED, Domain, Edit, Edited, edits_of
from compgan_core.rivals.layers import ImagePool, PatchGAN, PatchGANRecipe, init_normal
from compgan_core.training.loop import Update
from compgan_core.training.optim import OptimizerRecipe, Schedule
from compgan_core.training.runtime import Runtime, trainable
from compgan_core.training.stopwatch import grad


class ResNetRecipe(BaseModel):
    """The shape of the generator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    blocks: int = 9
    """The authors take 6 below 256 pixels."""


class CycleGANRecipe(BaseModel):
    """How to train CycleGAN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cyclegan"] = "cyclegan"
    generator: ResNetRecipe = ResNetRecipe(blocks=6)
    discriminator: PatchGANRecipe = PatchGANRecipe()
    schedule: Schedule = Schedule(epochs=200, batch=8, hold=0.5)
    """The authors' batch is 1, which no two workers can share."""
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adam", lr=2e-4)
    """Of all networks."""
    cycle: float = 10.0
    identity: float = 0.5
    """Times `cycle`."""
    pool: int = Field(50, ge=0)
    """Fakes of the past kept for the discriminator."""
    reference_mismatch: float = Field(0.5, ge=0, le=1)
    """As Comp-GAN's."""


class ResNet(nn.Module):
    """Faces (batch, channels, size, size) in [-1, 1] -> (batch, 3, size, size); size a multiple of 4."""

    def __init__(self, recipe: ResNetRecipe, channels: int = 6):
        super().__init__()
        w = recipe.width
        self.body = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_normed(nn.Conv2d(channels, w, 7), w),
            *_normed(nn.Conv2d(w, 2 * w, 3, 2, 1), 2 * w),
            *_normed(nn.Conv2d(2 * w, 4 * w, 3, 2, 1), 4 * w),
            *(_Block(4 * w) for _ in range(recipe.blocks)),
            *_normed(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1, 1), 2 * w),
            *_normed(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1), w),
            nn.ReflectionPad2d(3),
            nn.Conv2d(w, 3, 7),
            nn.Tanh(),
        )

    def forward(self, source: Tensor, reference: Tensor) -> Tensor:
        return self.body(torch.cat([source, reference], dim=1))


class _Block(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        pad = nn.ReflectionPad2d(1)
        self.body = nn.Sequential(pad, *_normed(nn.Conv2d(n, n, 3), n), pad, nn.Conv2d(n, n, 3), nn.InstanceNorm2d(n))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _normed(layer: nn.Module, n: int) -> list[nn.Module]:
    return [layer, nn.InstanceNorm2d(n), nn.ReLU()]


class PooledPatchGAN(nn.Module):
    """A discriminator of (face, reference) with the pool of past fakes, so that both are in its checkpoints."""

    def __init__(self, recipe: PatchGANRecipe, pool: ImagePool):
        super().__init__()
        self.net, self.pool = PatchGAN(recipe, 6, "instance"), pool

    def forward(self, face: Tensor, reference: Tensor) -> Tensor:
        return self.net(torch.cat([face, reference], dim=1))


class CycleGAN:
    """As `Rival`."""

    moving = None

    def __init__(self, recipe: CycleGANRecipe, domain: Domain, seed: int):
        self.recipe = recipe
        shape = 6, domain.size, domain.size
        with seeded(seed, "init cyclegan"):
            self.kept = nn.ModuleDict({edited: ResNet(recipe.generator) for edited in EDITED})
            self.d = {
                edited: PooledPatchGAN(recipe.discriminator, ImagePool(recipe.pool, shape, seed, f"pool {edited}"))
                for edited in EDITED
            }
            for network in (self.kept, *self.d.values()):
                init_normal(network)
        self.editors = {edited: ByReference(self.kept[edited]) for edited in EDITED}
        self.networks = {e: self.kept[e] for e in EDITED} | {f"d_{e}": d for e, d in self.d.items()}

    def update(self, batch: Tuples, samples: np.ndarray, step: int, runtime: Runtime) -> Update:
        metrics: dict[str, Tensor] = {}
        gradients: dict[str, list[Tensor]] = {}
        for edited, edit in edits_of(batch).items():
            self._update(edited, batch.reals[0], edit, step, runtime, metrics, gradients)
        return Update(metrics, gradients)

    def _update(
        self,
        edited: Edited,
        source: Tensor,
        edit: Edit,
        step: int,
        runtime: Runtime,
        metrics: dict[str, Tensor],
        gradients: dict[str, list[Tensor]],
    ) -> None:
        generator, d = self.networks[edited], self.d[edited]
        fake = generator(source, edit.reference)
        adv = (d(fake, edit.reference) - 1).square().mean()
        cycle = (generator(fake, edit.back) - source).abs().mean()
        same = (generator(source, edit.back) - source).abs().mean()
        loss = adv + self.recipe.cycle * (cycle + self.recipe.identity * same)
        gradients[edited] = list(grad(loss, trainable(generator)))
        pair = torch.cat([fake.detach(), edit.reference], dim=1)
        past = d.pool(pair, step * self.recipe.schedule.batch, runtime)
        d_loss = 0.5 * ((d(edit.truth, edit.reference) - 1).square().mean() + d.net(past).square().mean())
        gradients[f"d_{edited}"] = list(grad(d_loss, trainable(d)))
        values = {"adv": adv, "cycle": cycle, "identity": same, "d": d_loss}
        metrics |= {f"{edited}_{name}": value.detach() for name, value in values.items()}

    def complete(self, runtime: Runtime, load: Callable[[Rows], Tensor], labels: Labels, rows: Rows) -> None:
        pass
