"""VAE/GAN (Larsen et al., ICML 2016): an autoencoder whose decoder is a GAN's generator; edits are latent arithmetic.

After the authors' autoencoding_beyond_pixels and VAEGAN-PYTORCH, whose networks are for 64 pixels; other sizes have
one stage of stride 2 more or fewer and keep the 8 x 8 bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compgan_core.compgan import Tuples
from compgan_core.data.labels import Labels, Rows
from compgan_core.editors import Looks
from compgan_core.randomness import normal, seeded
from compgan_core.rivals.base import EDITED, Domain, known_values
from compgan_core.rivals.layers import BatchNorm
from compgan_core.training.loop import Update
from compgan_core.training.optim import OptimizerRecipe, Schedule
from compgan_core.training.runtime import Runtime, over_workers, trainable
from compgan_core.training.stopwatch import grad

BOTTLENECK = 8  # pixels
CHUNK = 64  # faces encoded at a time


class AnnealedSchedule(Schedule):
    """The rate falls by a factor after each of `epochs` equal parts of the training."""

    anneal: float = 0.75

    def factor(self, step: int, steps: int) -> float:
        return self.anneal ** int(self.epochs * step / steps)


class VAEGANNetRecipe(BaseModel):
    """The shape of encoder, decoder and discriminator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    latent: int = 128


class VAEGANRecipe(BaseModel):
    """How to train VAE/GAN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference_mismatch: ClassVar[float] = 0.0  # it is trained without references

    name: Literal["vaegan"] = "vaegan"
    network: VAEGANNetRecipe = VAEGANNetRecipe()
    schedule: AnnealedSchedule = AnnealedSchedule(epochs=20, batch=16, hold=1)
    """A tuple has four real faces, so this is the authors' batch of 64."""
    optimizer: OptimizerRecipe = OptimizerRecipe(name="rmsprop", lr=3e-4)
    """Of all networks."""
    gamma: float = 1e-6
    """Weight of the likelihood in the decoder's loss; 1 - gamma is that of the GAN."""
    equilibrium: float = 0.68
    margin: float = 0.35


class Encoder(nn.Module):
    """Faces (n, 3, size, size) in [-1, 1] -> mean and log-variance (n, latent) each."""

    def __init__(self, recipe: VAEGANNetRecipe, size: int):
        super().__init__()
        w = recipe.width
        widths = [w, 2 * w, 4 * w, 4 * w][: _stages(size)]
        layers = [_down(a, b) for a, b in zip([3, *widths], widths, strict=False)]
        fc = nn.Linear(widths[-1] * BOTTLENECK**2, 16 * w, bias=False)
        self.body = nn.Sequential(*layers, nn.Flatten(), fc, BatchNorm(16 * w), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(16 * w, recipe.latent), nn.Linear(16 * w, recipe.latent)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(faces)
        return self.mean(x), self.log_variance(x)


class Decoder(nn.Module):
    """Latent (n, latent) -> faces (n, 3, size, size) in [-1, 1]."""

    def __init__(self, recipe: VAEGANNetRecipe, size: int):
        super().__init__()
        w = recipe.width
        widths = [4 * w, 4 * w, 2 * w, w // 2][-_stages(size) :]
        n = 4 * w * BOTTLENECK**2
        self.fc = nn.Sequential(nn.Linear(recipe.latent, n, bias=False), BatchNorm(n), nn.ReLU())
        layers = [_up(a, b) for a, b in zip([4 * w, *widths], widths, strict=False)]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 5, 1, 2), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.body(self.fc(z).unflatten(1, (-1, BOTTLENECK, BOTTLENECK)))


class VAEGANDiscriminator(nn.Module):
    """Faces -> (logits (n,), Dis_l (n, ...)): the maps of the last convolution, before its norm."""

    def __init__(self, recipe: VAEGANNetRecipe, size: int):
        super().__init__()
        w = recipe.width
        widths = [2 * w, 4 * w, 4 * w, 4 * w][: _stages(size)]
        layers = [_down(a, b) for a, b in zip([w // 2, *widths], widths[:-1], strict=False)]
        last = nn.Conv2d(([w // 2, *widths])[-2], widths[-1], 5, 2, 2, bias=False)
        self.trunk = nn.Sequential(nn.Conv2d(3, w // 2, 5, 1, 2), nn.ReLU(), *layers, last)
        self.head = nn.Sequential(
            BatchNorm(widths[-1]),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(widths[-1] * BOTTLENECK**2, 8 * w, bias=False),
            BatchNorm(8 * w),
            nn.ReLU(),
            nn.Linear(8 * w, 1),
        )

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(faces)
        return self.head(features).squeeze(1), features


class VAEGANEditor(nn.Module):
    """Moves a face in latent space from the mean of what it is to the mean of what is wanted.

    A value that no training row has is taken from the reference: its latent, less the mean of its other attribute.
    """

    pose: Tensor
    expression: Tensor
    known_pose: Tensor
    known_expression: Tensor
    centre: Tensor

    def __init__(self, encoder: Encoder, decoder: Decoder, domain: Domain, latent: int):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        for name, n in (("pose", domain.poses), ("expression", domain.expressions)):
            self.register_buffer(name, torch.zeros(n, latent))
            self.register_buffer(f"known_{name}", torch.ones(n, dtype=torch.bool))
        self.register_buffer("centre", torch.zeros(latent))

    def edit(self, source: Tensor, reference: Tensor, has: Looks, wanted: Looks) -> Tensor:
        z, of_reference = self.encoder(source)[0], self.encoder(reference)[0] - self.centre
        z = z + self._vector(self.pose, self.known_pose, wanted.pose, of_reference)
        z = z + self._vector(self.expression, self.known_expression, wanted.expression, of_reference)
        return self.decoder(z - self.pose[has.pose] - self.expression[has.expression])

    @staticmethod
    def _vector(vectors: Tensor, known: Tensor, value: Tensor, example: Tensor) -> Tensor:
        return torch.where(known[value][:, None], vectors[value], example)


class VAEGAN:
    """As `Rival`."""

    def __init__(self, recipe: VAEGANRecipe, domain: Domain, seed: int):
        self.recipe, self.seed = recipe, seed
        with seeded(seed, "init vaegan"):
            self.encoder = Encoder(recipe.network, domain.size)
            self.decoder = Decoder(recipe.network, domain.size)
            self.d = VAEGANDiscriminator(recipe.network, domain.size)
        self.kept = VAEGANEditor(self.encoder, self.decoder, domain, recipe.network.latent)
        self.editors = dict.fromkeys(EDITED, self.kept)
        self.networks = {"encoder": self.encoder, "decoder": self.decoder, "discriminator": self.d}

    def update(self, batch: Tuples, samples: np.ndarray, step: int, runtime: Runtime) -> Update:
        faces = batch.reals.flatten(0, 1)
        cells = torch.arange(len(batch.reals), device=faces.device)
        numbers = (torch.from_numpy(samples).to(faces.device) * len(cells) + cells[:, None]).flatten()
        mean, log_variance = self.encoder(faces)
        noise, z_p = normal(self.seed, "vaegan latent", numbers, 2 * mean.shape[1]).chunk(2, dim=1)
        z = mean + noise * (0.5 * log_variance).exp()
        made = self.decoder(torch.cat([z, z_p]))
        n = len(faces)
        logits, features = self.d(torch.cat([faces, made]))  # one pass: one set of batch statistics
        real, fake = F.softplus(-logits[:n]).mean(), F.softplus(logits[n:]).mean()
        prior, likelihood = kl(mean, log_variance), feature_nll(features[:n], features[n : 2 * n])
        gan = real + fake
        gamma = self.recipe.gamma
        of = {
            "encoder": prior + likelihood,
            "decoder": gamma * likelihood - (1 - gamma) * gan,
            "discriminator": gan,
        }
        gradients = {
            name: list(grad(loss, trainable(self.networks[name]), retain_graph=name != "discriminator"))
            for name, loss in of.items()
        }
        metrics = {"prior": prior, "likelihood": likelihood, "real": real, "fake": fake}
        return Update({name: value.detach() for name, value in metrics.items()}, gradients)

    def moving(self, means: Mapping[str, float]) -> Collection[str]:
        kept = balance(means["real"], means["fake"], self.recipe.equilibrium, self.recipe.margin)
        return {"encoder", *kept}

    def complete(self, runtime: Runtime, load: Callable[[Rows], Tensor], labels: Labels, rows: Rows) -> None:
        """The attribute vectors: mean latent of the faces with a value, less that of the faces without it."""
        self.encoder.eval()
        with torch.inference_mode():
            z = over_workers(runtime, len(rows), CHUNK, lambda part: self.encoder(load(rows[part]))[0])
        kept = self.kept
        known = known_values(labels, rows)
        for codes, vectors, known_buffer, occurs in (
            (labels.pose, kept.pose, kept.known_pose, known[0]),
            (labels.expression, kept.expression, kept.known_expression, known[1]),
        ):
            vectors.copy_(attribute_vectors(z, torch.from_numpy(codes[rows]).long().to(z.device), len(vectors)))
            known_buffer.copy_(occurs)
        kept.centre.copy_(z.mean(0))


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over the latent and mean over the batch."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def feature_nll(real: Tensor, made: Tensor) -> Tensor:
    """-log p(Dis_l(x) | z) up to a constant: half the squared error, summed over features and mean over the batch."""
    return 0.5 * (real - made).square().flatten(1).sum(1).mean()


def balance(real: float, fake: float, equilibrium: float, margin: float) -> set[str]:
    """Which of decoder and discriminator move: the discriminator rests while it is ahead, the decoder while it lags.

    real, fake: the discriminator's mean cross-entropy on real faces and on made ones.
    """
    resting = set()
    if min(real, fake) < equilibrium - margin:
        resting.add("discriminator")
    if max(real, fake) > equilibrium + margin:
        resting.add("decoder")
    both = {"decoder", "discriminator"}
    return both - resting or both


def attribute_vectors(z: Tensor, values: Tensor, n: int) -> Tensor:
    """(n, latent): mean of z (rows, latent) with each value less the mean of the others; 0 for values without a row."""
    vectors = z.new_zeros(n, z.shape[1])
    for value in range(n):
        has = values == value
        if has.any() and not has.all():
            vectors[value] = z[has].mean(0) - z[~has].mean(0)
    return vectors


def _stages(size: int) -> int:
    return (size // BOTTLENECK).bit_length() - 1


def _down(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 5, 2, 2, bias=False), BatchNorm(n_out), nn.ReLU())


def _up(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(n_in, n_out, 5, 2, 2, 1, bias=False), BatchNorm(n_out), nn.ReLU())
