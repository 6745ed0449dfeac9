"""LightCNN-29v2 (Wu et al., "A Light CNN for Deep Face Representation with Noisy Labels"), paper reference [62].

Parameter names are those of the authors' public code, so their checkpoint loads strictly. Width, depth and input size
are arguments; the defaults are the network of the paper: 128 x 128 gray in [0, 1], 10,475,872 parameters without fc2.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compgan_core.errors import DataError


class LightCNNRecipe(BaseModel):
    """The shape of the recognition network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[int, int, int, int] = (48, 96, 192, 128)
    """Output channels of the four stages."""
    blocks: tuple[int, int, int, int] = (1, 2, 3, 4)
    """Residual blocks of the four stages."""
    feature: int = 256
    """Size of the face feature."""


class MFM(nn.Module):
    """Max-feature-map convolution: twice the channels, then the elementwise maximum of the two halves."""

    def __init__(self, n_in: int, n_out: int, kernel: int, padding: int):
        super().__init__()
        self.filter = nn.Conv2d(n_in, 2 * n_out, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return _MaxOfHalves.apply(self.filter(x))


class _MaxOfHalves(torch.autograd.Function):
    """max(a, b) of a tensor's two halves (n, 2c, h, w), of which only "a won" is kept, a byte an element.

    The gradient goes to the half that won, to a where they are equal. (`torch.maximum` keeps both halves, and its
    backward pass goes over them eight times.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(a >= b)
        return torch.maximum(a, b)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        (gradient,), (a_won,) = outputs, ctx.saved_tensors
        n, c, h, w = gradient.shape
        like: dict[str, Any] = {"dtype": gradient.dtype, "device": gradient.device}
        whole = torch.empty(n, 2 * c, h, w, memory_format=layout_of(gradient), **like)
        a, b = whole.chunk(2, dim=1)
        torch.mul(gradient, a_won, out=a)
        torch.sub(gradient, a, out=b)
        return whole


def layout_of(x: Tensor) -> torch.memory_format:
    """channels_last where (n, c, h, w) lies so, unless it could as well be called contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class ResidualBlock(nn.Module):
    """Two 3 x 3 MFM convolutions plus the identity; nothing after the sum."""

    def __init__(self, n: int):
        super().__init__()
        self.conv1, self.conv2 = MFM(n, n, 3, 1), MFM(n, n, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + x


class Group(nn.Module):
    """A 1 x 1 MFM convolution, then a 3 x 3 one that changes the number of channels."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.conv_a, self.conv = MFM(n_in, n_in, 1, 0), MFM(n_in, n_out, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv_a(x))


def pool(x: Tensor) -> Tensor:
    """The v2 pooling: maximum plus average over 2 x 2."""
    return F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)


class LightCNN(nn.Module):
    """Gray faces to a feature; with `num_classes`, to the authors' pair (logits, feature).

    x: (batch, 1, size, size) in [0, 1], size a multiple of 16.
    """

    def __init__(self, recipe: LightCNNRecipe | None = None, size: int = 128, num_classes: int | None = None):
        super().__init__()
        recipe = recipe or LightCNNRecipe()
        c1, c2, c3, c4 = recipe.channels
        self.conv1 = MFM(1, c1, 5, 2)
        self.block1 = _blocks(c1, recipe.blocks[0])
        self.group1 = Group(c1, c2)
        self.block2 = _blocks(c2, recipe.blocks[1])
        self.group2 = Group(c2, c3)
        self.block3 = _blocks(c3, recipe.blocks[2])
        self.group3 = Group(c3, c4)
        self.block4 = _blocks(c4, recipe.blocks[3])
        self.group4 = Group(c4, c4)
        self.fc = nn.Linear(c4 * (size // 16) ** 2, recipe.feature)
        if num_classes is not None:
            self.fc2 = nn.Linear(recipe.feature, num_classes, bias=False)

    def preserve_variance(self) -> None:
        """Draw the weights anew, so that a face still tells itself from others after thirty layers.

        The larger of two independent normal variables has their second moment, so MFM needs LeCun's variance of 1 by
        fan-in. Torch's default is a third of that, and leaves features that differ by a thousandth from face to face.
        A sum of n residuals grows, so each is divided by the root of n.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for blocks in (self.block1, self.block2, self.block3, self.block4):
            for residual in (module for module in blocks.modules() if isinstance(module, ResidualBlock)):
                residual.conv2.filter.weight.data /= math.sqrt(len(blocks))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The four pooled feature maps F^1..F^4 of Eq. (5) and (9); at 128 x 128: 48x64x64 ... 128x8x8."""
        x1 = pool(self.conv1(x))
        x2 = pool(self.group1(self.block1(x1)))
        x3 = pool(self.group2(self.block2(x2)))
        x4 = pool(self.group4(self.block4(self.group3(self.block3(x3)))))
        return [x1, x2, x3, x4]

    def feature(self, last_map: Tensor) -> Tensor:
        """The face feature (batch, feature) from the last of the maps, before dropout."""
        return self.fc(last_map.flatten(1))

    def forward(self, x: Tensor, dropout_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(logits (batch, num_classes), feature). dropout_mask: (batch, feature), zeros and 1/keep."""
        feature = self.feature(self.maps(x)[-1])
        return self.fc2(feature if dropout_mask is None else feature * dropout_mask), feature


def _blocks(n: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(n) for _ in range(count)))


def load_public_checkpoint(trunk: LightCNN, path: Path) -> None:
    """Load the authors' `LightCNN_29Layers_V2_checkpoint.pth.tar` into a trunk without fc2, strictly.

    Their file keeps `state_dict` with the prefix `module.`; its 80,013-way fc2 is dropped. Raises DataError when any
    other tensor is missing, left over, or of another shape.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name.removeprefix("module."): t for name, t in content.get("state_dict", content).items()}
    weights = {name: t for name, t in weights.items() if not name.startswith("fc2.")}
    try:
        trunk.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise DataError(f"{path} does not hold LightCNN-29v2 weights of this shape: {error}") from error
