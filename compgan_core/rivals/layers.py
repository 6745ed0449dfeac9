"""What several rivals are built of: batch norm over all workers, the PatchGAN discriminator, and the image pool."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compgan_core.randomness import generator
from compgan_core.training.runtime import Runtime, share

Norm = Literal["batch", "instance"]


class BatchNorm(nn.Module):
    """Batch norm of maps (n, channels, ...) whose statistics are those of the whole batch, wherever its parts are.

    torch's SyncBatchNorm knows no CPU. See `synchronise`.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.runtime: Runtime | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.runtime is None:
            running = self.mean, self.variance, self.weight, self.bias
            return F.batch_norm(x, *running, self.training, self.momentum, self.eps)
        axes, shape = [0, *range(2, x.ndim)], [-1, *[1] * (x.ndim - 2)]
        n = x.numel() // x.shape[1] * self.runtime.world_size
        mean = _Sum.apply(x.sum(axes), self.runtime) / n
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes), self.runtime) / n
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(shape) + self.bias.view(shape)


def synchronise(module: nn.Module, runtime: Runtime) -> None:
    """From here on the batch norms of a network count the batches of all workers as one. Their forward and backward
    passes in training are then collective."""
    for layer in module.modules():
        if isinstance(layer, BatchNorm):
            layer.runtime = runtime if runtime.world_size > 1 else None


class _Sum(torch.autograd.Function):
    """The sum over all workers, differentiable: each worker's loss depends on the statistics that all contribute to."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, runtime: Runtime) -> Tensor:
        ctx.runtime = runtime
        return runtime.all_reduce_sum(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.runtime.all_reduce_sum(gradients[0].clone()), None


def norm_of(kind: Norm) -> Callable[[int], nn.Module]:
    """channels -> the norm as the authors of pix2pix and CycleGAN use it (instance norm without scale and shift)."""
    return BatchNorm if kind == "batch" else nn.InstanceNorm2d


class PatchGANRecipe(BaseModel):
    """The shape of a PatchGAN discriminator; three layers see patches of 70 x 70 pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    layers: int = 3
    """Of stride 2; channels double up to eight times the width."""


class PatchGAN(nn.Module):
    """Real or not, patch by patch: (batch, channels, size, size) -> logits (batch, 1, patches, patches)."""

    def __init__(self, recipe: PatchGANRecipe, channels: int, norm: Norm):
        super().__init__()
        widths = [recipe.width * min(1 << i, 8) for i in range(recipe.layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            stride = 2 if i < recipe.layers - 1 else 1
            conv = nn.Conv2d(n_in, n_out, 4, stride, 1, bias=norm == "instance")
            body += [conv, norm_of(norm)(n_out), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, faces: Tensor) -> Tensor:
        return self.body(faces)


def init_normal(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) for the scale of batch norms, biases 0 (pix2pix and CycleGAN)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)


class ImagePool(nn.Module):
    """The history of fakes that CycleGAN shows its discriminator (Shrivastava et al., 2017).

    What is stored is a buffer, so it is part of every checkpoint; what is drawn depends on the sample's number. All
    workers store the same.
    """

    stored: Tensor

    def __init__(self, capacity: int, shape: tuple[int, ...], seed: int, purpose: str):
        super().__init__()
        self.seed, self.purpose = seed, purpose
        self.register_buffer("stored", torch.zeros(capacity, *shape))

    def forward(self, fresh: Tensor, first: int, runtime: Runtime) -> Tensor:
        """Fakes for the discriminator in place of this worker's `fresh` ones. Collective.

        first: the number of the first sample of the batch over all workers.
        """
        n = len(fresh) * runtime.world_size
        mine = share(runtime, n)
        everyones = fresh.new_zeros(n, *fresh.shape[1:])
        everyones[mine] = fresh
        everyones = runtime.all_reduce_sum(everyones)
        returned, kept = pool_plan(len(self.stored), np.arange(first, first + n), self.seed, self.purpose)
        known = torch.cat([self.stored, everyones])
        self.stored.copy_(known[torch.from_numpy(kept).to(known.device)])
        return known[torch.from_numpy(returned[mine]).to(known.device)]


def pool_plan(capacity: int, samples: np.ndarray, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """(what the pool returns for each sample, what it then holds), as positions in [held before, samples].

    The first `capacity` samples of a training are kept and returned; after that a sample is, half of the time, returned
    itself, and else takes the place of a kept one that is returned.
    """
    held, returned = list(range(capacity)), []
    for i, sample in enumerate(samples):
        rng = generator(seed, purpose, int(sample))
        new, slot = capacity + i, int(rng.integers(capacity)) if capacity else 0
        if sample < capacity:
            held[sample] = new
            returned.append(new)
        elif capacity and rng.random() < 0.5:
            returned.append(held[slot])
            held[slot] = new
        else:
            returned.append(new)
    return np.array(returned, np.int64), np.array(held, np.int64)
