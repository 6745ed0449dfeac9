"""A training that takes a second: what the tests of the runtimes run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from compgan_core.errors import DivergenceError
from compgan_core.randomness import seeded
from compgan_core.training.runtime import load_state, save_state, share, trainable
from orchestrator.runtime.ray_runtime import RayRuntime
from orchestrator.runtime.ray_tune import WHOLE, report

STAGE, FINGERPRINT = "toy", "0123456789abcdef0123"
STEPS, SAVE_EVERY, BATCH = 20, 5, 8
RESULT = "result.safetensors"


def train(
    runtime: RayRuntime, pause_s: float = 0.0, accident: str = "", at_step: int = 12, once: Path | None = None
) -> None:
    """accident: what happens on the last rank before step `at_step`; with `once`, only if that file does not exist."""
    runtime.begin(STAGE, FINGERPRINT)
    runtime.log(f"rank {runtime.rank} has begun")
    with seeded(0, "weights"):
        module = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
    engine = runtime.engine(module, torch.optim.Adam([{"params": list(module.parameters())}]), 0.5)
    step = 0
    with runtime.latest_checkpoint() as directory:
        if directory:
            state, facts = load_state(directory / "state.safetensors")
            engine.load_state(state)
            step = facts["step"]
    while step < STEPS:
        if step == at_step and accident:
            runtime.settle()
            runtime.barrier()  # what was saved is acknowledged
        if step == at_step and runtime.rank == runtime.world_size - 1 and not (once and once.exists()):
            if once:
                once.touch()
            meet_with(accident)
        with seeded(step, "batch"):
            x = torch.randn(BATCH, 4)[share(runtime, BATCH)]
        loss = (module(x)[:, 0] - x.sum(1)).square().mean()
        mean = runtime.all_reduce_sum(loss.detach()) / runtime.world_size
        engine.step(torch.autograd.grad(loss, trainable(module)), lr=0.02)
        step += 1
        time.sleep(pause_s)
        if runtime.rank == 0:
            runtime.report(step, STEPS, {"loss": mean.item()})
        if runtime.checkpoint_due(step) and step < STEPS:
            state = engine.state()
            runtime.save_checkpoint(step, partial(write, state=state, step=step))
    state = engine.state()
    if runtime.rank == 0:
        path = Path.cwd() / f"result-{os.getpid()}"
        save_state(path, state)
        runtime.store.put_file(RESULT, path)


def shared(runtime: RayRuntime) -> None:
    """As a stage that the trials of a sweep share."""
    train(runtime, pause_s=0.2)
    runtime.emit({"kind": "stage", "name": STAGE, "fingerprint": FINGERPRINT, "state": "done", "seconds": 4.0})


def trial(config: dict, tell: Callable[[dict], None]) -> None:
    """As the body of a trial."""
    time.sleep(3)
    report(1.0, WHOLE, ended=1)


def write(directory: Path, state: dict[str, torch.Tensor], step: int) -> None:
    save_state(directory / "state.safetensors", state, step=step)


def meet_with(accident: str) -> None:
    if accident == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if accident == "diverged":
        raise DivergenceError("the loss is nan")
    if accident == "hung":
        time.sleep(1000)
    if accident == "crashed":
        raise ValueError("a bug")
