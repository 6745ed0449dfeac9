"""AttGAN (He et al., IEEE TIP 2019): one generator that edits a face to any vector of attributes.

After the authors' AttGAN-Tensorflow and its port AttGAN-PyTorch. The attributes are the expressions and the poses, one
of each on. The authors draw target attributes by shuffling those of a batch; here they are the tuple's, so that what a
sample sees does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compgan_core.compgan import Tuples
from compgan_core.data.labels import Labels, Rows
from compgan_core.editors import Looks
from compgan_core.nets.gan import Discriminator, DiscriminatorRecipe
from compgan_core.randomness import seeded, uniform
from compgan_core.rivals.base import EDITED, Domain, edits_of, known_values
from compgan_core.rivals.layers import BatchNorm
from compgan_core.training.loop import Update
from compgan_core.training.optim import OptimizerRecipe, Schedule
from compgan_core.training.runtime import Runtime, trainable
from compgan_core.training.stopwatch import grad

AttributeLoss = Literal["sigmoid", "softmax"]


class AttGANGeneratorRecipe(BaseModel):
    """The shape of the generator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 64
    max_width: int = 1024
    downs: int = 5
    """Down to 4 x 4 pixels: 5 for 128."""
    shortcuts: int = 1
    """Encoder maps handed to the decoder; the authors found that more harm the editing."""
    injections: int = 1
    """Decoder layers after the first that see the attributes again."""


class AttGANRecipe(BaseModel):
    """How to train AttGAN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference_mismatch: ClassVar[float] = 0.0  # it sees no reference

    name: Literal["attgan"] = "attgan"
    generator: AttGANGeneratorRecipe = AttGANGeneratorRecipe()
    discriminator: DiscriminatorRecipe = DiscriminatorRecipe()
    schedule: Schedule = Schedule(epochs=60, batch=16, hold=0.5)
    """A tuple gives two edits, so this is the authors' batch of 32."""
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adam", lr=2e-4)
    """Of all networks."""
    n_d: int = 5
    """Updates of the discriminator, each on a batch of its own, before one of the generator."""
    penalty: float = 10.0
    """Of the gradient, WGAN-GP."""
    attributes: float = 10.0
    """Of the attributes that the classifier reads in fakes, in the generator's loss; 1 of real faces in its own."""
    reconstruction: float = 100.0
    attribute_loss: AttributeLoss = "sigmoid"
    """Cross-entropies of independent attributes, mean over them, as the authors have it; or one over the expressions
    plus one over the poses, of which exactly one is on."""


class AttGANGenerator(nn.Module):
    """Faces (batch, 3, size, size) and attributes (batch, n) in [-1, 1] -> faces."""

    def __init__(self, recipe: AttGANGeneratorRecipe, n_attributes: int):
        super().__init__()
        widths = [min(recipe.width << i, recipe.max_width) for i in range(recipe.downs)]
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1, bias=False), BatchNorm(b), nn.LeakyReLU(0.2))
            for a, b in zip([3, *widths], widths, strict=False)
        )
        self.shortcuts, self.injections = recipe.shortcuts, recipe.injections
        self.decoder = nn.ModuleList()
        n_in = widths[-1] + n_attributes
        for i, n_out in enumerate([*widths[:0:-1], 3]):
            last = i == recipe.downs - 1
            layer = nn.ConvTranspose2d(n_in, n_out, 4, 2, 1, bias=last)
            self.decoder.append(layer if last else nn.Sequential(layer, BatchNorm(n_out), nn.ReLU()))
            n_in = n_out
            if i < recipe.shortcuts:
                n_in += widths[-2 - i]
            if i < recipe.injections:
                n_in += n_attributes

    def encode(self, faces: Tensor) -> list[Tensor]:
        """The encoder's maps, the smallest last."""
        maps = [faces]
        for layer in self.encoder:
            maps.append(layer(maps[-1]))
        return maps[1:]

    def decode(self, maps: list[Tensor], attributes: Tensor) -> Tensor:
        x = _with(maps[-1], attributes)
        for i, layer in enumerate(self.decoder):
            x = layer(x)
            if i < self.shortcuts:
                x = torch.cat([x, maps[-2 - i]], dim=1)
            if i < self.injections:
                x = _with(x, attributes)
        return torch.tanh(x)

    def forward(self, faces: Tensor, attributes: Tensor) -> Tensor:
        return self.decode(self.encode(faces), attributes)


class AttGANDiscriminator(nn.Module):
    """Critic and classifier of attributes on one trunk: faces -> (scores (batch,), logits (batch, n))."""

    def __init__(self, recipe: DiscriminatorRecipe, size: int, n_attributes: int):
        super().__init__()
        self.critic = Discriminator(recipe, size)
        self.attributes = nn.Sequential(
            nn.Flatten(),
            nn.Linear(self.critic.n_features, recipe.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(recipe.hidden, n_attributes),
        )

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.critic.trunk(faces)
        return self.critic.head(maps).squeeze(1), self.attributes(maps)


class AttGANEditor(nn.Module):
    """Generates the wanted attributes. A value that was never trained is read off the reference by the classifier."""

    known: Tensor

    def __init__(
        self, generator: AttGANGenerator, classifier: AttGANDiscriminator, domain: Domain, loss: AttributeLoss
    ):
        super().__init__()
        self.generator, self.classifier, self.domain, self.loss = generator, classifier, domain, loss
        self.register_buffer("known", torch.ones(2, max(domain.expressions, domain.poses), dtype=torch.bool))

    def edit(self, source: Tensor, reference: Tensor, has: Looks, wanted: Looks) -> Tensor:
        groups = self.domain.expressions, self.domain.poses
        logits = self.classifier(reference)[1].split(groups, 1)
        read = [x.sigmoid() if self.loss == "sigmoid" else x.softmax(1) for x in logits]
        one_hot = attributes_of(wanted, self.domain).split(groups, 1)
        known = self.known[0, wanted.expression], self.known[1, wanted.pose]
        b = [torch.where(k[:, None], x, y) for k, x, y in zip(known, one_hot, read, strict=True)]
        return self.generator(source, 2 * torch.cat(b, 1) - 1)


class AttGAN:
    """As `Rival`."""

    moving = None

    def __init__(self, recipe: AttGANRecipe, domain: Domain, seed: int):
        self.recipe, self.domain, self.seed = recipe, domain, seed
        n = domain.poses + domain.expressions
        with seeded(seed, "init attgan"):
            self.g = AttGANGenerator(recipe.generator, n)
            self.d = AttGANDiscriminator(recipe.discriminator, domain.size, n)
        self.kept = AttGANEditor(self.g, self.d, domain, recipe.attribute_loss)
        self.editors = dict.fromkeys(EDITED, self.kept)
        self.networks = {"generator": self.g, "discriminator": self.d}

    def update(self, batch: Tuples, samples: np.ndarray, step: int, runtime: Runtime) -> Update:
        edits = list(edits_of(batch).values())
        source, truth = batch.reals[0].repeat(2, 1, 1, 1), torch.cat([e.truth for e in edits])
        b = torch.cat([self._attributes(e.wanted) for e in edits])
        if (step + 1) % (self.recipe.n_d + 1):
            numbers = torch.from_numpy(np.concatenate([2 * samples, 2 * samples + 1])).to(source.device)
            return self._discriminator_update(source, truth, b, numbers)
        a = self._attributes(Looks(batch.pose[0], batch.expression[0])).repeat(2, 1)
        return self._generator_update(source, a, b)

    def _discriminator_update(self, source: Tensor, real: Tensor, b: Tensor, numbers: Tensor) -> Update:
        with torch.no_grad():
            fake = self.g(source, 2 * b - 1)
        (real_score, read), (fake_score, _) = self.d(real), self.d(fake)
        where = uniform(self.seed, "attgan line", numbers, 1)[:, :, None, None]
        penalty = gradient_penalty(lambda x: self.d(x)[0], real, fake, where)
        critic, attributes = fake_score.mean() - real_score.mean(), self._attribute_loss(read, b)
        loss = critic + self.recipe.penalty * penalty + attributes
        metrics = {"critic": critic, "penalty": penalty, "attributes_of_real": attributes}
        return self._made(metrics, discriminator=grad(loss, trainable(self.d)))

    def _generator_update(self, source: Tensor, a: Tensor, b: Tensor) -> Update:
        maps = self.g.encode(source)
        score, read = self.d(self.g.decode(maps, 2 * b - 1))
        reconstruction = (self.g.decode(maps, 2 * a - 1) - source).abs().mean()
        attributes = self._attribute_loss(read, b)
        recipe = self.recipe
        loss = -score.mean() + recipe.attributes * attributes + recipe.reconstruction * reconstruction
        metrics = {"adv": -score.mean(), "attributes_of_fake": attributes, "reconstruction": reconstruction}
        return self._made(metrics, generator=grad(loss, trainable(self.g)))

    @staticmethod
    def _made(metrics: dict[str, Tensor], **gradients: tuple[Tensor, ...]) -> Update:
        return Update({k: v.detach() for k, v in metrics.items()}, {k: list(v) for k, v in gradients.items()})

    def _attributes(self, looks: Looks) -> Tensor:
        return attributes_of(looks, self.domain)

    def _attribute_loss(self, logits: Tensor, attributes: Tensor) -> Tensor:
        if self.recipe.attribute_loss == "sigmoid":
            return F.binary_cross_entropy_with_logits(logits, attributes)
        groups = [self.domain.expressions, self.domain.poses]
        pairs = zip(logits.split(groups, 1), attributes.split(groups, 1), strict=True)
        return torch.stack([F.cross_entropy(x, y) for x, y in pairs]).sum()

    def complete(self, runtime: Runtime, load: Callable[[Rows], Tensor], labels: Labels, rows: Rows) -> None:
        poses, expressions = known_values(labels, rows)
        self.kept.known[0, : len(expressions)] = expressions
        self.kept.known[1, : len(poses)] = poses


def attributes_of(looks: Looks, domain: Domain) -> Tensor:
    """float32 (n, expressions + poses), 1 for the expression and the pose that a face has and 0 elsewhere."""
    return torch.cat(
        [F.one_hot(looks.expression, domain.expressions), F.one_hot(looks.pose, domain.poses)], dim=1
    ).float()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, where: Tensor) -> Tensor:
    """WGAN-GP (Gulrajani et al., 2017): mean squared distance from 1 of the critic's slope on lines from real to fake.

    where: (n, 1, 1, 1) in [0, 1), the place on each line. Differentiable with respect to the critic's parameters.
    """
    x = torch.lerp(real, fake, where).detach().requires_grad_()
    (slope,) = grad(critic(x).sum(), x, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def _with(maps: Tensor, attributes: Tensor) -> Tensor:
    """Attributes as constant maps beside the others."""
    return torch.cat([maps, attributes[:, :, None, None].expand(-1, -1, *maps.shape[2:])], dim=1)
