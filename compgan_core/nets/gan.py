"""The generators (encoder-decoder on source and reference) and the discriminator (after AttGAN, reference [52])."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class GeneratorRecipe(BaseModel):
    """The shape of G(Pose) and G(Exp), which is the same for both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    """Channels after the first convolution; doubled at each down-sampling."""
    max_width: int = 1024
    downs: int = 5
    """Convolutions of stride 2, and as many transposed ones back."""
    residual_blocks: int = 0
    """Blocks at the smallest resolution."""
    skips: int = 0
    """Encoder maps handed to the decoder, from the smallest resolution outwards. 0 is the classic encoder-decoder of
    Sec. 5.2; small networks need 2."""
    upsample: Literal["transposed", "nearest"] = "transposed"
    """A transposed 4 x 4 convolution as in AttGAN, or doubled pixels and a 3 x 3 one, which makes no checkerboard."""
    shared: bool = False
    """One generator in place of both (an ablation of Sec. 5.3): it takes pose and expression from the reference."""


class DiscriminatorRecipe(BaseModel):
    """The shape of D."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    max_width: int = 1024
    downs: int = 5
    hidden: int = 1024


class Generator(nn.Module):
    """Edits one attribute of a source face after a reference face.

    source, reference: RGB (batch, 3, size, size) in [-1, 1], size a multiple of 2^downs. Returns the same.
    """

    def __init__(self, recipe: GeneratorRecipe):
        super().__init__()
        widths = [min(recipe.width << i, recipe.max_width) for i in range(recipe.downs)]
        self.encoder = nn.ModuleList(_conv(n_in, n_out) for n_in, n_out in zip([6, *widths], widths, strict=False))
        self.middle = nn.Sequential(*(_Residual(widths[-1]) for _ in range(recipe.residual_blocks)))
        self.skips = min(recipe.skips, recipe.downs - 1)
        outputs = [*widths[-2::-1], 3]
        self.decoder = nn.ModuleList()
        n_in = widths[-1]
        for i, n_out in enumerate(outputs):
            last = i == recipe.downs - 1
            self.decoder.append(_up(n_in, n_out, recipe.upsample, last))
            n_in = 2 * n_out if i < self.skips else n_out

    def forward(self, source: Tensor, reference: Tensor) -> Tensor:
        x = torch.cat([source, reference], dim=1)
        encoded = []
        for layer in self.encoder:
            x = layer(x)
            encoded.append(x)
        x = self.middle(x)
        for i, layer in enumerate(self.decoder):
            x = layer(x)
            if i < self.skips:
                x = torch.cat([x, encoded[-2 - i]], dim=1)
        return torch.tanh(x)


class Discriminator(nn.Module):
    """Real or synthesized: (batch, 3, size, size) in [-1, 1] -> logits (batch,)."""

    def __init__(self, recipe: DiscriminatorRecipe, size: int):
        super().__init__()
        widths = [min(recipe.width << i, recipe.max_width) for i in range(recipe.downs)]
        self.trunk = nn.Sequential(*(_conv(a, b) for a, b in zip([3, *widths], widths, strict=False)))
        self.n_features = widths[-1] * (size >> recipe.downs) ** 2
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(self.n_features, recipe.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(recipe.hidden, 1),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return self.head(self.trunk(faces)).squeeze(1)


class _Residual(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n, n, 3, padding=1, bias=False),
            nn.InstanceNorm2d(n, affine=True),
            nn.ReLU(),
            nn.Conv2d(n, n, 3, padding=1, bias=False),
            nn.InstanceNorm2d(n, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _conv(n_in: int, n_out: int) -> nn.Sequential:
    # Instance norm, as every statistic of a batch would depend on the share of it that a worker sees.
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 4, stride=2, padding=1, bias=False),
        nn.InstanceNorm2d(n_out, affine=True),
        nn.LeakyReLU(0.2),
    )


def _up(n_in: int, n_out: int, upsample: str, last: bool) -> nn.Sequential:
    if upsample == "transposed":
        layers: list[nn.Module] = [nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, bias=last)]
    else:
        layers = [nn.Upsample(scale_factor=2), nn.Conv2d(n_in, n_out, 3, padding=1, bias=last)]
    if not last:
        layers += [nn.InstanceNorm2d(n_out, affine=True), nn.ReLU()]
    return nn.Sequential(*layers)


def init_gan(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions and linear layers (pix2pix, AttGAN); norms stay at 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
