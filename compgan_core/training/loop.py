"""The loop that all training shares: restore, compute, agree, update, report, save.

A stage gives `update(step)`, a pure function of the step number and of the present weights, that returns this worker's
mean losses and gradients. Everything random inside is keyed by the global sample number, so a run that was killed and
resumed is the run that was not, bit for bit on one CPU worker.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compgan_core.errors import ConfigurationError, DivergenceError
from compgan_core.training.optim import Schedule
from compgan_core.training.runtime import Engine, Runtime, load_state, save_state, sub_state
from compgan_core.training.stopwatch import PARTS, Stopwatch, timed

STATE_FILE = "state.safetensors"
SETTLE_EVERY = 10
"""Steps after which a loop on a GPU reads metrics, reports, and asks whether to save."""
PACE_OVER_S = 5.0


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

    Raises DivergenceError when a metric or a gradient norm is not finite on any worker: before that update on a CPU.
    On a GPU, which reading the metrics would bring to a stop, up to `SETTLE_EVERY` updates later, but before a save.
    """
    step, history, newest = _restore(runtime, trainees)
    log_every = max(1, steps // 200)
    watch = Stopwatch(runtime.device)
    pace = _Pace(images_per_step, watch)
    ahead = runtime.device.type == "cuda" and not moving
    unread: list[_Row] = []

    def reads(step: int) -> bool:
        return not ahead or (step + 1) % SETTLE_EVERY == 0 or step + 1 == steps

    with watch.running():
        while step < steps:
            watch.awake = reads(step + 1)  # measured now, read after the next step
            with timed("forward"):
                metrics, gradients = update(step)
            with timed("metrics"):
                unread.append(_row(runtime, step, metrics, gradients))
                reading = reads(step)
                read = _agree(runtime, unread) if reading else []
                now = pace.after(len(read)) if reading else {}
            allowed = moving(read[-1].means) if moving else gradients
            rates = {name: trainee.lr * schedule.factor(step, steps) for name, trainee in trainees.items()}
            with timed("optimizer"):
                for name, trainee in trainees.items():
                    if name in gradients and name in allowed:
                        trainee.engine.step(gradients[name], rates[name])
            step += 1
            now |= {f"lr_{name}": rate for name, rate in rates.items()}
            for done, means, _ in read:
                newest = newest | means
                if done % log_every == 0 or done == steps:
                    history.append({"step": done, **newest})
                if runtime.rank == 0:
                    runtime.report(done, steps, {**newest, **now})
            if step < steps and any(row.save for row in read):
                with watch.on_the_host("checkpoint"):
                    _save(runtime, trainees, step, history, newest)
            if reading:
                unread = []
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


def accumulate(compute: Callable[[np.ndarray], Update], batches: Sequence[np.ndarray]) -> Update:
    """The mean of the updates of equally large micro-batches. An Update may be overwritten by the next call."""
    first = compute(batches[0])
    if len(batches) == 1:
        return first
    metrics = {name: value.clone() for name, value in first.metrics.items()}
    total = {name: [g.clone() for g in gradients] for name, gradients in first.gradients.items()}
    for batch in batches[1:]:
        part = compute(batch)
        for name, value in part.metrics.items():
            metrics[name] += value
        for name, gradients in part.gradients.items():
            torch._foreach_add_(total[name], gradients)
    for gradients in total.values():
        torch._foreach_div_(gradients, len(batches))
    return Update({name: value / len(batches) for name, value in metrics.items()}, total)


def autocast(
    device: torch.device, precision: Literal["float32", "bfloat16"]
) -> contextlib.AbstractContextManager[object]:
    """Forward passes in bfloat16 where the recipe asks for it; weights, gradients and losses stay float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def arrange(network: nn.Module, device: torch.device, precision: Literal["float32", "bfloat16"]) -> None:
    """Lay a network's convolution weights out, in place, as its kernels are fastest; activations follow the weights.

    channels_last, except for what has transposed convolutions and runs in float32 on a CPU: weight gradients of
    a generator take half as long again in it there.
    """
    transposed = any(isinstance(layer, nn.ConvTranspose2d) for layer in network.modules())
    if not (transposed and device.type == "cpu" and precision == "float32"):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


class _Row(NamedTuple):
    """What one worker has to tell about a step, still on the device."""

    step: int
    names: list[str]
    values: Tensor
    """Metrics, gradient norms, and last whether this worker wants a checkpoint."""


def _row(runtime: Runtime, step: int, metrics: dict[str, Tensor], gradients: dict[str, list[Tensor]]) -> _Row:
    values = dict(metrics)
    values |= {f"grad_norm_{name}": nn.utils.get_total_norm(grads) for name, grads in gradients.items()}
    due = torch.full((), float(runtime.checkpoint_due(step + 1)), device=runtime.device)
    return _Row(step, list(values), torch.stack([*(v.detach().float() for v in values.values()), due]))


class _Agreed(NamedTuple):
    """A step, as all workers know it."""

    done: int
    """Steps made once it is."""
    means: dict[str, float]
    save: bool


def _agree(runtime: Runtime, rows: list[_Row]) -> list[_Agreed]:
    """The same on all workers, from one small reduction; of each row, means over the workers."""
    mine = torch.cat([row.values for row in rows])
    table = torch.zeros(runtime.world_size, len(mine), device=runtime.device)
    table[runtime.rank] = mine
    table = runtime.all_reduce_sum(table).cpu()
    agreed = []
    for row, part in zip(rows, table.split([len(row.values) for row in rows], dim=1), strict=True):
        for rank, values in enumerate(part[:, :-1].tolist()):
            for name, value in zip(row.names, values, strict=True):
                if not math.isfinite(value):
                    raise DivergenceError(
                        f"{name} is {value} on rank {rank} at step {row.step}, before the update; resume from an "
                        f"earlier checkpoint with a lower learning rate or with gradient clipping"
                    )
        means = dict(zip(row.names, part[:, :-1].mean(0).tolist(), strict=True))
        agreed.append(_Agreed(row.step + 1, means, bool(part[0, -1])))
    return agreed


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


class _Moment(NamedTuple):
    """What had been done by then."""

    at: float
    steps: int
    seconds: dict[str, float]


class _Pace:
    """`images_per_s`, and `seconds_<part>` of a step, over the last seconds."""

    def __init__(self, images_per_step: int, watch: Stopwatch):
        self._images_per_step, self._watch = images_per_step, watch
        self._moments = deque([_Moment(time.monotonic(), 0, dict.fromkeys(PARTS, 0.0))], maxlen=500)

    def after(self, steps: int) -> dict[str, float]:
        """So many steps later. On a GPU, what the device was given up to the last mark must be done."""
        self._watch.read(steps)
        done = self._moments[-1].steps + steps
        now = _Moment(time.monotonic(), done, dict(self._watch.seconds))
        while len(self._moments) > 1 and now.at - self._moments[0].at > PACE_OVER_S:
            self._moments.popleft()
        first = self._moments[0]
        self._moments.append(now)
        made = now.steps - first.steps
        seconds = {f"seconds_{name}": (now.seconds[name] - first.seconds[name]) / made for name in PARTS}
        return {"images_per_s": made * self._images_per_step / max(now.at - first.at, 1e-9), **seconds}
