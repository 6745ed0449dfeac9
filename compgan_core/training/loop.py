"""The loop that all training shares: restore, compute, agree, update, report, save.

A stage gives `update(step)`, a pure function of the step number and of the present weights, that returns this worker's
mean losses and gradients. Everything random inside is keyed by the global sample number, so a run that was killed and
resumed is the run that was not, bit for bit on one CPU worker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compgan_core.errors import ConfigurationError, DivergenceError
from compgan_core.training.optim import Schedule
from compgan_core.training.runtime import Engine, Runtime, load_state, save_state, sub_state

STATE_FILE = "state.safetensors"


class Update(NamedTuple):
    """What one step computes, before any weight changes."""

    metrics: dict[str, Tensor]
    """Detached scalars, means over this worker's share of the batch."""
    gradients: dict[str, list[Tensor]]
    """By engine; one that is absent keeps its weights."""


class Trainee(NamedTuple):
    """An engine and its base learning rate."""

    engine: Engine
    lr: float


def fit(
    runtime: Runtime,
    trainees: Mapping[str, Trainee],
    update: Callable[[int], Update],
    schedule: Schedule,
    steps: int,
    images_per_step: int,
    after_step: Callable[[int], object] = lambda step: None,
    moving: Callable[[Mapping[str, float]], Collection[str]] | None = None,
) -> list[dict[str, float]]:
    """Train for `steps` updates; returns the history, a row of mean metrics about every half percent of the way.

    A row holds the newest value of each metric, which an update need not give every time.

    after_step: called on every worker with the number of steps made, once what is due is saved.
    moving: means over the workers -> the networks that take this step's gradients; all of them by default.

    Raises DivergenceError before the update when a metric or a gradient norm is not finite on any worker.
    """
    step, history, newest = _restore(runtime, trainees)
    log_every = max(1, steps // 200)
    rate = _Rate(images_per_step)
    while step < steps:
        metrics, gradients = update(step)
        means, save = _agree(runtime, step, metrics, gradients)
        allowed = gradients if moving is None else moving(means)
        for name, (engine, lr) in trainees.items():
            if name in gradients and name in allowed:
                engine.step(gradients[name], lr * schedule.factor(step, steps))
        step, newest = step + 1, newest | means
        if step % log_every == 0 or step == steps:
            history.append({"step": step, **newest})
        if runtime.rank == 0:
            runtime.report(step, steps, {**newest, "images_per_s": rate.after(1)})
        if save and step < steps:
            _save(runtime, trainees, step, history, newest)
        after_step(step)
    return history


def micro_batches(samples: np.ndarray, size: int) -> list[np.ndarray]:
    """A worker's samples in equal parts of at most `size`, so that the mean of their means is the mean."""
    parts = -(-len(samples) // size)
    if len(samples) % parts:
        raise ConfigurationError(
            f"a worker's {len(samples)} samples do not divide into {parts} equal micro-batches of at most {size}; "
            f"set schedule.micro_batch to a divisor of {len(samples)}"
        )
    return np.split(samples, parts)


def accumulate(parts: Iterable[Update]) -> Update:
    """The mean of the updates of equally large micro-batches."""
    parts = iter(parts)
    total, n = next(parts), 1
    for part in parts:
        n += 1
        for name, gradients in part.gradients.items():
            torch._foreach_add_(total.gradients[name], gradients)
        total = Update({k: v + part.metrics[k] for k, v in total.metrics.items()}, total.gradients)
    if n > 1:
        for gradients in total.gradients.values():
            torch._foreach_div_(gradients, n)
    return Update({k: v / n for k, v in total.metrics.items()}, total.gradients)


def autocast(
    device: torch.device, precision: Literal["float32", "bfloat16"]
) -> contextlib.AbstractContextManager[object]:
    """Forward passes in bfloat16 where the recipe asks for it; weights, gradients and losses stay float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _agree(
    runtime: Runtime, step: int, metrics: dict[str, Tensor], gradients: dict[str, list[Tensor]]
) -> tuple[dict[str, float], bool]:
    """(means over the workers, whether to save after this step), the same on all workers, from one small reduction."""
    values = dict(metrics)
    values |= {f"grad_norm_{name}": nn.utils.get_total_norm(grads) for name, grads in gradients.items()}
    mine = torch.stack([v.detach().float() for v in values.values()])
    due = mine.new_tensor([float(runtime.checkpoint_due(step + 1))])
    table = torch.zeros(runtime.world_size, len(mine) + 1, device=runtime.device)
    table[runtime.rank] = torch.cat([mine, due])
    table = runtime.all_reduce_sum(table).cpu()
    for rank, row in enumerate(table[:, :-1]):
        for name, value in zip(values, row.tolist(), strict=True):
            if not torch.isfinite(torch.tensor(value)):
                raise DivergenceError(
                    f"{name} is {value} on rank {rank} at step {step}, before the update; resume from an earlier "
                    f"checkpoint with a lower learning rate or with gradient clipping"
                )
    means = dict(zip(values, table[:, :-1].mean(0).tolist(), strict=True))
    return means, bool(table[0, -1])


def _save(
    runtime: Runtime,
    trainees: Mapping[str, Trainee],
    step: int,
    history: list[dict[str, float]],
    newest: Mapping[str, float],
) -> None:
    state = {f"{name}/{key}": t for name, (engine, _) in trainees.items() for key, t in engine.state().items()}

    def write(directory: Path) -> None:
        save_state(directory / STATE_FILE, state, step=step, history=history, newest=newest)

    runtime.save_checkpoint(step, write)


def _restore(runtime: Runtime, trainees: Mapping[str, Trainee]) -> tuple[int, list[dict[str, float]], dict[str, float]]:
    with runtime.latest_checkpoint() as directory:
        if directory is None:
            return 0, [], {}
        state, facts = load_state(directory / STATE_FILE)
    for name, (engine, _) in trainees.items():
        engine.load_state(sub_state(state, f"{name}/"))
    return facts["step"], facts["history"], facts["newest"]


class _Rate:
    """Images per second over the last seconds."""

    def __init__(self, images_per_step: int):
        self.images_per_step, self.marks = images_per_step, [(time.monotonic(), 0)]

    def after(self, steps: int) -> float:
        now, total = time.monotonic(), self.marks[-1][1] + steps
        self.marks = [m for m in self.marks if now - m[0] < 5][-500:] or self.marks[-1:]
        first = self.marks[0]
        self.marks.append((now, total))
        return (total - first[1]) * self.images_per_step / max(now - first[0], 1e-9)
