"""Training of Comp-GAN: G(Pose), G(Exp) and D together, F_cls frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from compgan_core import transforms
from compgan_core.compgan import (
    CALLS,
    CELLS,
    CompGAN,
    Tuples,
    against_discriminator,
    generator_gradients,
    generator_terms,
)
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Rows
from compgan_core.data.tuples import Ahead
from compgan_core.errors import ConfigurationError
from compgan_core.losses import Weights
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import DiscriminatorRecipe, GeneratorRecipe
from compgan_core.randomness import uniform
from compgan_core.training.feed import Feed, to_device
from compgan_core.training.graphed import graphed
from compgan_core.training.loop import Trainee, Update, accumulate, arrange, autocast, fit, micro_batches
from compgan_core.training.optim import OptimizerRecipe, ScheduleRecipe, build
from compgan_core.training.runtime import Runtime, share
from compgan_core.training.stopwatch import timed


class CompGANRecipe(BaseModel):
    """How to train Comp-GAN; the weights of the losses stand beside it in the recipe, as `lambda` and `mu`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: GeneratorRecipe = GeneratorRecipe()
    discriminator: DiscriminatorRecipe = DiscriminatorRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe(micro_batch=8)
    generator_optimizer: OptimizerRecipe = OptimizerRecipe(name="adam", lr=2e-4)
    discriminator_optimizer: OptimizerRecipe = OptimizerRecipe(name="adam", lr=2e-5)
    gamma1: float = 1.0
    """Of the pixels in Eq. (6) and (7)."""
    gamma2: float = 0.1
    """Of the perceptual term in Eq. (6) and (7)."""
    classifier_scale: float = 0.02
    """Multiplies the three terms that come from F_cls. With mean L1 and cross-entropies summed over eight faces they
    would be thirty times the others, and the generators would learn to fool F_cls with noise; 1 is that reading."""
    adversarial_scale: float = 0.02
    blur: bool = False
    """F_cls sees faces through a small blur in the generators' losses, so that they gain nothing from patterns of two
    pixels."""
    warmup_tuples: int = 2100
    """Tuples trained without the terms of F_cls and D."""
    ramp_tuples: int = 2100
    """Tuples over which those terms then rise to their scale."""
    reference_mismatch: float = Field(0.5, ge=0, le=1)
    """Chance that a reference is right only in the attribute that the call edits; 0 is Algorithm 1 to the letter.
    Without it a generator copies the reference's other attribute too, which spoils label-free references."""
    mirror: float = Field(0, ge=0, le=1)
    """Chance that all images of a tuple are mirrored. So generators learn that faces have two sides, and G(Pose) can
    turn to one that no face shows. The paper uses no such knowledge; the variant `mirrored` does: compare with it."""
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _shared_goes_by_the_whole_reference(self) -> Self:
        if self.generator.shared and self.reference_mismatch:
            raise ConfigurationError(
                "one generator for pose and expression takes both from the reference, so a reference may not be right "
                f"in one of them only: with compgan.generator.shared=true set compgan.reference_mismatch=0, not "
                f"{self.reference_mismatch:g}"
            )
        return self

    def ramp(self, tuples: int) -> float:
        """The share of their scales that the terms of F_cls and D have after this many tuples."""
        return min(1.0, max(0.0, (tuples - self.warmup_tuples) / max(1, self.ramp_tuples)))


class Sampler(Protocol):
    """An endless stream of tuples, by number; `TupleSampler` is one."""

    def batch(self, start: int, n: int) -> Rows:
        """Rows int64 (n, 12): four faces of a person, then the references of the eight calls of Algorithm 1."""


def tuples_of(
    faces: Faces, sampler: Sampler, size: int, seed: int, device: torch.device, mirror: float = 0.0
) -> Callable[[np.ndarray], Tuples]:
    """tuples(samples) -> Tuples of consecutive sample numbers, int64 (n,); one crop for the twelve images of each.

    mirror: the chance that all of them are mirrored.
    """
    feed, ahead = Feed(faces, device), Ahead(sampler.batch)

    def tuples(samples: np.ndarray) -> Tuples:
        rows = ahead.batch(int(samples[0]), len(samples))  # (n, 12)
        n, width = rows.shape
        numbers = to_device(samples, device)
        cropped = transforms.random_crop(feed.images(rows.T.ravel()), size, seed, numbers.repeat(width))
        images = transforms.normalise(cropped).unflatten(0, (width, n))
        mirrored = uniform(seed, "mirror", numbers, 1)[:, 0] < mirror if mirror else None
        if mirrored is not None:
            images = transforms.mirror(images, mirrored)
        pose, expression, identity = feed.labels(np.concatenate([rows[:, 0], rows[:, 3]]))  # source and target
        return Tuples(
            reals=images[: len(CELLS)],
            references=images[len(CELLS) :],
            pose=pose.view(2, n),
            expression=expression.view(2, n),
            identity=identity[:n],
            mirrored=mirrored,
        )

    return tuples


def train(
    runtime: Runtime,
    gan: CompGAN,
    discriminator: nn.Module,
    classifier: FaceClassifier,
    tuples: Callable[[np.ndarray], Tuples],
    recipe: CompGANRecipe,
    lambda_: Weights,
    mu: Weights,
    n_examples: int,
) -> list[dict[str, float]]:
    """Train both generators and D in place; returns the history. n_examples: base images, which make an epoch."""
    schedule = recipe.schedule
    classifier.requires_grad_(False).eval()
    gan.recompute = runtime.recompute
    for network in (gan, discriminator, classifier):
        arrange(network, runtime.device, recipe.precision)
    g, d = recipe.generator_optimizer, recipe.discriminator_optimizer
    trainees = {
        "pose": Trainee(runtime.engine(gan.pose, build(gan.pose, g), g.max_grad_norm), g.lr),
        "discriminator": Trainee(runtime.engine(discriminator, build(discriminator, d), d.max_grad_norm), d.lr),
    }

    if not gan.shared:
        trainees["exp"] = Trainee(runtime.engine(gan.exp, build(gan.exp, g), g.max_grad_norm), g.lr)

    def whole(*inputs: Any) -> Update:
        batch, ramp = Tuples(*inputs[:-1]), inputs[-1]
        return compgan_update(gan, discriminator, classifier, batch, recipe, lambda_, mu, ramp)

    compute = graphed(whole, runtime.device)

    def load(samples: np.ndarray) -> Tuples:
        with timed("data"):
            return tuples(samples)

    def update(step: int) -> Update:
        start = step * schedule.batch
        mine = np.arange(start, start + schedule.batch)[share(runtime, schedule.batch)]
        ramp: float | torch.Tensor = recipe.ramp(start)
        if runtime.device.type == "cuda":  # where a number would be recorded once and for all
            ramp = torch.full((), recipe.ramp(start), device=runtime.device)
        return accumulate(
            lambda samples: compute(*load(samples).tensors, ramp), micro_batches(mine, schedule.micro_batch)
        )

    def after_step(step: int) -> None:
        networks = {name: trainee.engine.module for name, trainee in trainees.items()}
        runtime.observe(step, steps, {"exp": networks["pose"], **networks})

    steps = schedule.total_steps(n_examples)
    return fit(runtime, trainees, update, schedule, steps, schedule.batch * len(CALLS), after_step)


def compgan_update(
    gan: CompGAN,
    discriminator: nn.Module,
    classifier: FaceClassifier,
    batch: Tuples,
    recipe: CompGANRecipe,
    lambda_: Weights,
    mu: Weights,
    ramp: float | torch.Tensor,
) -> Update:
    """One step of Comp-GAN on a batch of tuples: both generators' gradients and that of D, all at the present weights.

    (As in CycleGAN and PN-GAN, where the generators move first and D then learns from the faces they had already made.)
    D and F_cls each see the faces once.
    """
    device = batch.reals.device
    with autocast(device, recipe.precision):
        fakes = gan(batch.reals[0], batch.references)
    d = against_discriminator(fakes, batch, discriminator, autocast(device, recipe.precision))
    with autocast(device, recipe.precision):
        terms = generator_terms(fakes, batch, classifier, d.term, recipe.gamma1, recipe.gamma2, recipe.blur)
    pose, exp = generator_gradients(
        terms, gan, lambda_, mu, recipe.classifier_scale * ramp, recipe.adversarial_scale * ramp
    )
    metrics = {name: term.detach() for name, term in terms.items()}
    metrics |= {"discriminator": d.loss, "d_real": d.real, "d_fake": d.fake}
    return Update(metrics, {"pose": pose, "discriminator": d.gradients} | ({} if gan.shared else {"exp": exp}))
