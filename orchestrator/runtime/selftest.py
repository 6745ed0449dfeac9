"""Does this machine's DeepSpeed update as plain torch does? New releases have been silently wrong before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional

from compgan_core.randomness import seeded
from compgan_core.training.runtime import Engine, LocalEngine, load_state, save_state, trainable
from orchestrator.runtime.deepspeed_engine import DeepSpeedEngine, check_zero_stage

SEED, BATCH, STEPS = 0, 8, 5


def check_engine(zero_stage: int) -> float:
    """The largest absolute difference of any weight or optimizer state after five steps of Adam with clipping.

    Two processes with DeepSpeed on half of the batch each, against one with LocalEngine on the whole of it. Takes about
    five seconds. Above 1e-6, do not train with this stage.
    """
    check_zero_stage(zero_stage)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.safetensors"
        in_processes(2, _train_on_shares, zero_stage, path)
        shared, _ = load_state(path)
    module, optimizer = _network()
    engine = LocalEngine(module, optimizer, 0.5)
    _train(engine, slice(None))
    whole = engine.state()
    assert whole.keys() == shared.keys()
    return max((whole[name] - shared[name]).abs().max().item() for name in whole)


def in_processes(world_size: int, work: Callable[..., None], *arguments: object) -> None:
    """Run `work(*arguments)` in new processes that form a gloo group. Raises what the first failing one raised."""
    with tempfile.TemporaryDirectory() as directory:
        shared = (world_size, Path(directory) / "meet", work, arguments)
        multiprocessing.spawn(_member, shared, world_size)  # type: ignore[attr-defined]


def _member(rank: int, world_size: int, meet: Path, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))  # else DeepSpeed looks for MPI
    distributed.init_process_group("gloo", init_method=meet.as_uri(), rank=rank, world_size=world_size)
    work(*arguments)
    distributed.barrier()  # gloo aborts the process that leaves while another one is still talking to it
    distributed.destroy_process_group()


def _train_on_shares(zero_stage: int, path: Path) -> None:
    module, optimizer = _network()
    engine = DeepSpeedEngine(module, optimizer, 0.5, zero_stage)
    rank, each = distributed.get_rank(), BATCH // distributed.get_world_size()
    _train(engine, slice(rank * each, (rank + 1) * each))
    state = engine.state()
    if rank == 0:
        save_state(path, state)


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    with seeded(SEED, "selftest"):
        module = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 9, 7), nn.ReLU(), nn.Linear(7, 3)
        )
    weights, biases = ([p for p in module.parameters() if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases, "lr_multiplier": 2.0}]
    return module, torch.optim.Adam(groups)


def _train(engine: Engine, mine: slice) -> None:
    """The network stands twice in each graph, which is what ZeRO's hooks have gone wrong on."""
    with seeded(SEED, "selftest data"):
        images, labels = torch.randn(STEPS, 2, BATCH, 3, 5, 5), torch.randint(3, (STEPS, BATCH))
    for (left, right), y in zip(images[:, :, mine], labels[:, mine], strict=True):
        loss = functional.cross_entropy(engine.module(left), y) + functional.cross_entropy(engine.module(right), y)
        engine.step(torch.autograd.grad(loss, trainable(engine.module)), lr=0.01)
