"""Supervised training of a classifier with three heads: pre-training, F_cls, fine-tuning and the judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from compgan_core import transforms
from compgan_core.data.cache import Faces
from compgan_core.data.tuples import EpochSampler
from compgan_core.nets.attention import AttentionCNN
from compgan_core.nets.classifier import AttributeClassifier, FaceClassifier
from compgan_core.nets.judge import Judge
from compgan_core.randomness import uniform
from compgan_core.training.feed import Feed, to_device
from compgan_core.training.graphed import graphed
from compgan_core.training.loop import Trainee, Update, accumulate, arrange, autocast, fit, micro_batches
from compgan_core.training.optim import OptimizerRecipe, ScheduleRecipe, build
from compgan_core.training.runtime import Runtime, share, trainable
from compgan_core.training.stopwatch import grad, timed


class HeadWeights(BaseModel):
    """How much each head's cross-entropy counts; 0 leaves the head out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expression: float = 1.0
    pose: float = 1.0
    identity: float = 1.0


class ClassifierRecipe(BaseModel):
    """How to train a classifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schedule: ScheduleRecipe = ScheduleRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    dropout: float = Field(0.5, ge=0, lt=1)
    """On the face feature (Sec. 5.2)."""
    heads: HeadWeights = HeadWeights()
    degrade: bool = False
    """Train on faces that are shifted, blurred, noisy and off in colour, which a generator finds harder to exploit."""
    precision: Literal["float32", "bfloat16"] = "float32"


class SteppedSchedule(ScheduleRecipe):
    """The rate falls to a share of itself after every so many epochs (Sec. 5.1, after LightCNN's authors)."""

    batch: int = Field(128, gt=0)
    decay: float = Field(0.457305051927326, gt=0, le=1)
    """0.02 ** (1 / 5): five steps make it a fiftieth."""
    every_epochs: float = Field(10, gt=0)

    def factor(self, step: int, steps: int) -> float:
        return self.decay ** int(self.epochs * step / steps / self.every_epochs)


class SteppedRecipe(ClassifierRecipe):
    """Supervised training as in Sec. 5.1; clipping is ours, without which a deep network that starts from scratch
    diverges at this rate."""

    schedule: SteppedSchedule = SteppedSchedule()
    optimizer: OptimizerRecipe = OptimizerRecipe(lr=0.01, weight_decay=1e-4, bias_lr_multiplier=2, max_grad_norm=5)
    heads: HeadWeights = HeadWeights(pose=0, identity=0)


class Examples(NamedTuple):
    """A batch of labelled faces on the device."""

    faces: Tensor
    """float32 (n, 3, size, size) in [-1, 1]."""
    expression: Tensor
    """int64 (n,); negative where unknown, and likewise the others."""
    pose: Tensor
    identity: Tensor


class Attributed(NamedTuple):
    """A batch of faces on the device of which it is known whether each binary attribute is true."""

    faces: Tensor
    """As of Examples."""
    attributes: Tensor
    """float32 (n, attributes), 0 or 1."""


FaceReader = FaceClassifier | Judge | AttentionCNN

Source = Callable[[np.ndarray], Examples]
"""The examples of these global sample numbers, int64 (n,)."""


def examples(feed: Feed, rows: np.ndarray, size: int, seed: int, samples: np.ndarray) -> Examples:
    """These rows as examples, at a crop that belongs to each sample number."""
    faces = transforms.random_crop(feed.images(rows), size, seed, to_device(samples, feed.device))
    pose, expression, identity = feed.labels(rows)
    return Examples(transforms.normalise(faces), expression, pose, identity)


def epochs_of(faces: Faces, rows: np.ndarray, size: int, seed: int, device: torch.device) -> Source:
    """Every row once an epoch in an order of its own, at a random crop."""
    sampler, feed = EpochSampler(rows, seed), Feed(faces, device)

    def source(samples: np.ndarray) -> Examples:
        return examples(feed, sampler.batch(int(samples[0]), len(samples)), size, seed, samples)

    return source


def attributed_of(
    faces: Faces, true: np.ndarray, rows: np.ndarray, size: int, seed: int, device: torch.device
) -> Callable[[np.ndarray], Attributed]:
    """Like `epochs_of`. true: bool (len(faces), attributes)."""
    source, sampler = epochs_of(faces, rows, size, seed, device), EpochSampler(rows, seed)

    def attributed(samples: np.ndarray) -> Attributed:
        of = true[sampler.batch(int(samples[0]), len(samples))]
        return Attributed(source(samples).faces, to_device(of.astype(np.float32), device))

    return attributed


class Share(NamedTuple):
    """A part of a training mixture: rows of a set of faces, and the chance of a sample to come from it."""

    faces: Faces
    rows: np.ndarray
    chance: float


def mixture_of(shares: list[Share], size: int, seed: int, device: torch.device) -> Source:
    """Each sample number picks a share by its chance, a row in it, and a crop."""
    edges = np.cumsum([s.chance for s in shares]) / sum(s.chance for s in shares)
    feeds = {id(s.faces): Feed(s.faces, device) for s in shares}

    def source(samples: np.ndarray) -> Examples:
        u = uniform(seed, "mixture", torch.from_numpy(samples), 2).numpy()
        which = np.minimum(np.searchsorted(edges, u[:, 0], side="right"), len(shares) - 1)
        parts, order = [], []
        for i, part in enumerate(shares):
            mine = np.flatnonzero(which == i)
            if not len(mine):
                continue
            rows = part.rows[(u[mine, 1] * len(part.rows)).astype(np.int64)]
            parts.append(examples(feeds[id(part.faces)], rows, size, seed, samples[mine]))
            order.append(mine)
        back = to_device(np.argsort(np.concatenate(order)), device)
        return Examples(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))

    return source


def train(
    runtime: Runtime,
    model: FaceReader | AttributeClassifier,
    source: Callable[[np.ndarray], Examples | Attributed],
    recipe: ClassifierRecipe,
    n_examples: int,
    seed: int,
) -> list[dict[str, float]]:
    """Train `model` in place; returns the history. source: of Attributed for an AttributeClassifier."""
    schedule = recipe.schedule
    arrange(model, runtime.device, recipe.precision)
    engine = runtime.engine(model, build(model, recipe.optimizer), recipe.optimizer.max_grad_norm)
    steps = schedule.total_steps(n_examples)

    def whole(*inputs: Tensor) -> Update:
        faces, *labels, numbers = inputs
        if recipe.degrade:
            faces = transforms.degrade(faces, seed, numbers)
        if isinstance(model, AttributeClassifier):
            return attribute_update(model, Attributed(faces, *labels), numbers, recipe, seed)
        return supervised_update(model, Examples(faces, *labels), numbers, recipe, seed)

    compute = graphed(whole, runtime.device)

    def load(samples: np.ndarray) -> Examples | Attributed:
        with timed("data"):
            return source(samples)

    def update(step: int) -> Update:
        mine = np.arange(step * schedule.batch, (step + 1) * schedule.batch)[share(runtime, schedule.batch)]
        return accumulate(
            lambda samples: compute(*load(samples), to_device(samples, runtime.device)),
            micro_batches(mine, schedule.micro_batch),
        )

    return fit(runtime, {"classifier": Trainee(engine, recipe.optimizer.lr)}, update, schedule, steps, schedule.batch)


def supervised_update(
    model: FaceReader, batch: Examples, numbers: Tensor, recipe: ClassifierRecipe, seed: int
) -> Update:
    """The weighted sum of the heads' cross-entropies, and its gradient."""
    with autocast(batch.faces.device, recipe.precision):
        feature = model.features(batch.faces)
        mask = transforms.dropout_mask(seed, numbers, feature.shape[1], recipe.dropout)
        logits = model.heads(feature, mask)
    metrics, loss = {}, batch.faces.new_zeros(())
    for head in ("expression", "pose", "identity"):
        weight = getattr(recipe.heads, head)
        if weight:
            outputs, labels = getattr(logits, head).float(), getattr(batch, head)
            term = cross_entropy(outputs, labels)
            loss = loss + weight * term
            metrics[head] = term.detach()
            metrics[f"{head}_accuracy"] = (outputs.detach().argmax(1) == labels).float().mean()
    parameters = trainable(model)
    gradients = grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return Update(metrics, {"classifier": list(gradients)})


def attribute_update(
    model: AttributeClassifier, batch: Attributed, numbers: Tensor, recipe: ClassifierRecipe, seed: int
) -> Update:
    """The sigmoid cross-entropy, averaged over attributes and faces, and its gradient."""
    with autocast(batch.faces.device, recipe.precision):
        mask = transforms.dropout_mask(seed, numbers, model.attributes.in_features, recipe.dropout)
        logits = model(batch.faces, mask).float()
    loss = F.binary_cross_entropy_with_logits(logits, batch.attributes)
    right = ((logits.detach() > 0) == (batch.attributes > 0)).float().mean()
    metrics = {"attributes": loss.detach(), "attributes_accuracy": right}
    return Update(metrics, {"classifier": list(grad(loss, trainable(model)))})


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch; rows of unknown label (negative) count as zero."""
    loss = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return (loss * (labels >= 0)).mean()
