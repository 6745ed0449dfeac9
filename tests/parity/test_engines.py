"""DeepSpeed's engines against plain torch: the same update, and one portable state for all of them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from compgan_core.errors import ConfigurationError, DivergenceError
from compgan_core.randomness import seeded
from compgan_core.training.runtime import Engine, LocalEngine, State, load_state, save_state, trainable
from orchestrator.runtime.deepspeed_engine import DeepSpeedEngine
from orchestrator.runtime.selftest import check_engine, in_processes

pytestmark = pytest.mark.slow

BATCH, STEPS, MAX_GRAD_NORM = 8, 5, 0.3
STAGES, OPTIMIZERS = (0, 1, 2), ("SGD", "Adam")
TOLERANCE = 1e-6


class Network(nn.Module):
    """Sizes that no number of workers divides, a frozen parameter, a buffer, and 1 x 1 kernels, in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 1)
        self.frozen = nn.Parameter(torch.randn(5, 1, 1), requires_grad=False)
        self.register_buffer("offset", torch.randn(3, 1, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(45, 7), nn.ReLU(), nn.Linear(7, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.conv(x + self.offset).relu()) * self.frozen)


def network(optimizer: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    with seeded(0, "weights"):
        module = Network().to(memory_format=torch.channels_last)
    groups = [
        {"params": [p for p in trainable(module) if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trainable(module) if p.ndim == 1], "weight_decay": 0.0, "lr_multiplier": 2.0},
    ]
    if optimizer == "SGD":
        return module, torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    return module, torch.optim.Adam(groups)


def train(engine: Engine, first_step: int) -> None:
    """STEPS updates on this worker's share of each batch."""
    world, rank = (torch.distributed.get_world_size(), torch.distributed.get_rank()) if in_group() else (1, 0)
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for step in range(first_step, first_step + STEPS):
        with seeded(step, "batch"):
            images, labels = torch.randn(BATCH, 3, 5, 5)[mine], torch.randint(3, (BATCH,))[mine]
        loss = nn.functional.cross_entropy(engine.module(images), labels)
        engine.step(torch.autograd.grad(loss, trainable(engine.module)), lr=0.02)


def in_group() -> bool:
    return torch.distributed.is_initialized()


def keep(state: State, path: Path) -> None:
    if torch.distributed.get_rank() == 0:
        save_state(path, state)


def exercise(directory: Path) -> None:
    """In each of two processes: what the tests below look at."""
    for stage in STAGES:
        for optimizer in OPTIMIZERS:
            engine = DeepSpeedEngine(*network(optimizer), MAX_GRAD_NORM, stage)
            fresh = {name: t.clone() for name, t in engine.state().items()}
            train(engine, 0)
            trained = {name: t.clone() for name, t in engine.state().items()}
            keep(trained, directory / f"trained-{stage}-{optimizer}")
            train(engine, STEPS)
            engine.load_state(trained)
            keep(engine.state(), directory / f"loaded-{stage}-{optimizer}")
            engine.load_state(fresh)
            keep(engine.state(), directory / f"fresh-{stage}-{optimizer}")
            train(engine, 0)
            keep(engine.state(), directory / f"again-{stage}-{optimizer}")


def resume(directory: Path) -> None:
    """In each process of a group of any size: continue what two processes began at stage 1."""
    for stage in STAGES:
        for optimizer in OPTIMIZERS:
            engine = DeepSpeedEngine(*network(optimizer), MAX_GRAD_NORM, stage)
            engine.load_state(load_state(directory / f"trained-1-{optimizer}")[0])
            train(engine, STEPS)
            keep(engine.state(), directory / f"resumed-{torch.distributed.get_world_size()}-{stage}-{optimizer}")


def diverge() -> None:
    for stage in (1, 2):
        engine = DeepSpeedEngine(*network("SGD"), MAX_GRAD_NORM, stage)
        before = [p.clone() for p in engine.module.parameters()]
        gradients = [torch.zeros_like(p) for p in trainable(engine.module)]
        gradients[0].view(-1)[0] = float("inf") if torch.distributed.get_rank() else 0.0
        with pytest.raises(DivergenceError, match="not finite"):
            engine.step(gradients, lr=0.1)
        assert all(map(torch.equal, before, engine.module.parameters()))


def drop() -> None:
    for stage in STAGES:
        engine = DeepSpeedEngine(*network("Adam"), MAX_GRAD_NORM, stage)
        train(engine, 0)
        weights = weakref.ref(engine.module.head[1].weight)
        del engine
        gc.collect()
        assert weights() is None


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("states")
    in_processes(2, exercise, directory)
    return directory


@pytest.fixture(scope="module")
def resumed(states: Path) -> Path:
    for world_size in (1, 2):
        in_processes(world_size, resume, states)
    return states


def local(optimizer: str, start: State | None = None) -> State:
    """What one process with plain torch arrives at, from the beginning or from a state after STEPS."""
    engine = LocalEngine(*network(optimizer), MAX_GRAD_NORM)
    if start:
        engine.load_state(start)
    train(engine, STEPS if start else 0)
    return engine.state()


def read(path: Path) -> State:
    return load_state(path)[0]


def difference(a: State, b: State) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def same_bits(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n].view(torch.int32), b[n].view(torch.int32)) for n in a)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stage", STAGES)
class TestEachStage:
    def test_two_workers_arrive_where_one_process_does(self, states: Path, stage: int, optimizer: str) -> None:
        assert difference(local(optimizer), read(states / f"trained-{stage}-{optimizer}")) <= TOLERANCE

    def test_a_loaded_state_reads_back_bit_for_bit(self, states: Path, stage: int, optimizer: str) -> None:
        assert same_bits(*(read(states / f"{name}-{stage}-{optimizer}") for name in ("trained", "loaded")))

    def test_a_state_from_before_the_first_step_forgets_the_optimizer(
        self, states: Path, stage: int, optimizer: str
    ) -> None:
        untrained = LocalEngine(*network(optimizer), MAX_GRAD_NORM).state()
        assert same_bits(untrained, read(states / f"fresh-{stage}-{optimizer}"))
        assert same_bits(*(read(states / f"{name}-{stage}-{optimizer}") for name in ("trained", "again")))

    @pytest.mark.parametrize("world_size", [1, 2])
    def test_a_state_of_two_workers_at_stage_1_continues_anywhere(
        self, resumed: Path, world_size: int, stage: int, optimizer: str
    ) -> None:
        expected = local(optimizer, start=read(resumed / f"trained-1-{optimizer}"))
        assert difference(expected, read(resumed / f"resumed-{world_size}-{stage}-{optimizer}")) <= TOLERANCE


def test_clipping_took_part(states: Path) -> None:
    engine = LocalEngine(*network("SGD"), 0.0)
    train(engine, 0)
    assert difference(engine.state(), read(states / "trained-0-SGD")) > 1e-3


def test_a_gradient_that_is_not_finite_on_one_worker_stops_all_before_the_update() -> None:
    in_processes(2, diverge)


def test_an_engine_that_is_no_longer_used_frees_its_network() -> None:
    in_processes(1, drop)


def test_stage_3_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigurationError, match="fetched again for every layer"):
        DeepSpeedEngine(*network("SGD"), MAX_GRAD_NORM, 3)


def test_the_self_test_of_doctor_finds_this_machine_sound() -> None:
    assert check_engine(1) <= TOLERANCE
