"""Pix2Pix (Isola et al., CVPR 2017), one model for each attribute: source and reference in, the tuple's truth out.

After the authors' pytorch-CycleGAN-and-pix2pix: U-Net, conditional PatchGAN, cross-entropy and 100 times L1. The two
generators and their discriminators move from one point, as Comp-GAN's do; the authors move D first.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compgan_core import losses
from compgan_core.compgan import Tuples
from compgan_core.data.labels import Labels, Rows
from compgan_core.editors import ByReference
from compgan_core.randomness import seeded, uniform
from compgan_core.rivals.base import EDITED, Domain, Edit, Edited, edits_of
from compgan_core.rivals.layers import BatchNorm, PatchGAN, PatchGANRecipe, init_normal
from compgan_core.training.loop import Update
from compgan_core.training.optim import OptimizerRecipe, Schedule
from compgan_core.training.runtime import Runtime, trainable
from compgan_core.training.stopwatch import grad


class UNetRecipe(BaseModel):
    """The shape of the U-Net."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    """Channels after the first convolution; doubled up to eight times that."""
    downs: int = 7
    """Convolutions of stride 2, down to one pixel: 8 for 256 pixels, 7 for 128."""
    dropouts: int = 2
    """Inner decoder layers with dropout 0.5; the authors have downs - 5."""


class Pix2PixRecipe(BaseModel):
    """How to train Pix2Pix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["pix2pix"] = "pix2pix"
    generator: UNetRecipe = UNetRecipe()
    discriminator: PatchGANRecipe = PatchGANRecipe()
    schedule: Schedule = Schedule(epochs=200, batch=8, hold=0.5)
    """The authors' batch is 1, which no two workers can share."""
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adam", lr=2e-4)
    """Of all networks."""
    l1: float = 100.0
    reference_mismatch: float = Field(0.5, ge=0, le=1)
    """As Comp-GAN's."""


class UNet(nn.Module):
    """Faces (batch, channels, size, size) in [-1, 1] -> (batch, 3, size, size); size a multiple of 2^downs."""

    def __init__(self, recipe: UNetRecipe, channels: int = 6):
        super().__init__()
        widths = [recipe.width * min(1 << i, 8) for i in range(recipe.downs)]
        self.down = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(pairwise([channels, *widths])):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            layers.append(nn.Conv2d(n_in, n_out, 4, 2, 1, bias=False))
            if 0 < i < recipe.downs - 1:
                layers.append(BatchNorm(n_out))
            self.down.append(nn.Sequential(*layers))
        self.up = nn.ModuleList()
        for i, n_out in enumerate(reversed([3, *widths[:-1]])):  # from the smallest map outwards
            last = i == recipe.downs - 1
            conv = nn.ConvTranspose2d(widths[-1 - i] * (2 if i else 1), n_out, 4, 2, 1, bias=last)
            self.up.append(nn.Sequential(nn.ReLU(), conv, *([] if last else [BatchNorm(n_out)])))
        self.dropouts = range(1, 1 + recipe.dropouts)  # the innermost layer has none

    def forward(
        self, source: Tensor, reference: Tensor, masks: Callable[[int, Tensor], Tensor] | None = None
    ) -> Tensor:
        """masks(layer, maps) -> dropout mask like `maps`; None drops nothing."""
        x = torch.cat([source, reference], dim=1)
        maps = []
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        for i, layer in enumerate(self.up):
            x = layer(torch.cat([x, maps[-1 - i]], dim=1) if i else x)
            if masks is not None and i in self.dropouts:
                x = x * masks(i, x)
        return torch.tanh(x)


class Pix2Pix:
    """As `Rival`."""

    moving = None

    def __init__(self, recipe: Pix2PixRecipe, domain: Domain, seed: int):
        self.recipe, self.seed = recipe, seed
        with seeded(seed, "init pix2pix"):
            self.kept = nn.ModuleDict({edited: UNet(recipe.generator) for edited in EDITED})
            self.d = {edited: PatchGAN(recipe.discriminator, 6, "batch") for edited in EDITED}
            for network in (self.kept, *self.d.values()):
                init_normal(network)
        self.editors = {edited: ByReference(self.kept[edited]) for edited in EDITED}
        self.networks = {e: self.kept[e] for e in EDITED} | {f"d_{e}": d for e, d in self.d.items()}

    def update(self, batch: Tuples, samples: np.ndarray, step: int, runtime: Runtime) -> Update:
        metrics: dict[str, Tensor] = {}
        gradients: dict[str, list[Tensor]] = {}
        for edited, edit in edits_of(batch).items():
            self._update(edited, batch.reals[0], edit, samples, metrics, gradients)
        return Update(metrics, gradients)

    def _update(
        self,
        edited: Edited,
        source: Tensor,
        edit: Edit,
        samples: np.ndarray,
        metrics: dict[str, Tensor],
        gradients: dict[str, list[Tensor]],
    ) -> None:
        generator, d = self.networks[edited], self.d[edited]
        numbers = torch.from_numpy(samples).to(source.device)

        def masks(layer: int, maps: Tensor) -> Tensor:
            kept = uniform(self.seed, f"pix2pix {edited} {layer}", numbers, maps[0].numel()) >= 0.5
            return 2.0 * kept.view_as(maps)

        fake = generator(source, edit.reference, masks)
        adv = losses.real_loss(d(torch.cat([source, fake], 1)))
        l1 = (fake - edit.truth).abs().mean()
        gradients[edited] = list(grad(adv + self.recipe.l1 * l1, trainable(generator)))
        real_pair, fake_pair = (torch.cat([source, x.detach()], 1) for x in (edit.truth, fake))
        d_loss = 0.5 * losses.discriminator_loss(d(real_pair), d(fake_pair))
        gradients[f"d_{edited}"] = list(grad(d_loss, trainable(d)))
        values = {"adv": adv, "l1": l1, "d": d_loss}
        metrics |= {f"{edited}_{name}": value.detach() for name, value in values.items()}

    def complete(self, runtime: Runtime, load: Callable[[Rows], Tensor], labels: Labels, rows: Rows) -> None:
        pass
