"""Optimizers, learning-rate schedules and how long to train."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from compgan_core.training.runtime import trainable


class OptimizerRecipe(BaseModel):
    """An optimizer and its base rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adam", "rmsprop"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    """Of SGD."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Of Adam."""
    weight_decay: float = 0.0
    """On weights, not on biases."""
    bias_lr_multiplier: float = 1.0
    """The authors of LightCNN train biases at twice the rate."""
    max_grad_norm: float = 0.0
    """Clip the 2-norm of the averaged gradient; 0 does not."""


class Schedule(BaseModel):
    """How long to train, in what batches, and how the rate falls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(50, gt=0)
    steps: int | None = None
    """Updates; overrides epochs."""
    batch: int = Field(64, gt=0)
    """Over all workers. Images, or tuples for Comp-GAN and its rivals."""
    hold: float = Field(0.6, ge=0, le=1)
    """Share of the training at the full rate; then linearly to zero (Sec. 5.2: epoch 30 of 50)."""

    def total_steps(self, examples: int) -> int:
        """Updates for a training set of this many examples."""
        return self.steps if self.steps is not None else max(1, math.ceil(self.epochs * examples / self.batch))

    def factor(self, step: int, steps: int) -> float:
        """The rate at an update, as a share of the base rate."""
        done = step / steps
        return 1.0 if done < self.hold or self.hold >= 1 else (1 - done) / (1 - self.hold)


class ScheduleRecipe(Schedule):
    """And what a worker holds at a time."""

    micro_batch: int = Field(64, gt=0)
    """What one worker holds on its device at a time; gradients accumulate up to the batch."""


def build(module: nn.Module, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """A torch optimizer over `trainable(module)`: one group of weights, one of biases and other vectors."""
    parameters = trainable(module)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay, "lr_multiplier": 1.0},
        {
            "params": [p for p in parameters if p.ndim <= 1],
            "weight_decay": 0.0,
            "lr_multiplier": recipe.bias_lr_multiplier,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=True)
    if recipe.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=0.9)
    return torch.optim.Adam(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
