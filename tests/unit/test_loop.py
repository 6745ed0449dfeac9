"""Training: schedules, micro-batches, resuming, and stopping before a bad update."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from compgan_core.errors import ConfigurationError, DivergenceError
from compgan_core.randomness import seeded, uniform
from compgan_core.training.loop import Trainee, Update, accumulate, fit, micro_batches
from compgan_core.training.optim import OptimizerRecipe, ScheduleRecipe, build
from compgan_core.training.runtime import Local, LocalEngine, load_state, over_workers, save_state, share, trainable
from compgan_core.training.stopwatch import PARTS, Stopwatch, timed

SCHEDULE = ScheduleRecipe(steps=10, batch=4)


def regression(runtime, optimizer="adam", poison=None, stop_at=None):
    """Fit a line with a step that depends on its number; returns (weights, history)."""
    with seeded(0, "line"):
        net = nn.Linear(3, 1)
    recipe = OptimizerRecipe(name=optimizer, lr=0.05, weight_decay=0.01, bias_lr_multiplier=2, max_grad_norm=1)
    engine = runtime.engine(net, build(net, recipe), recipe.max_grad_norm)

    def update(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = uniform(0, "x", torch.arange(step * 4, step * 4 + 4), 3)
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        if step == poison:
            loss = loss * float("nan")
        return Update({"loss": loss.detach()}, {"net": list(torch.autograd.grad(loss, trainable(net)))})

    history = fit(runtime, {"net": Trainee(engine, 0.05)}, update, SCHEDULE, 10, 4)
    return torch.cat([p.detach().flatten() for p in net.parameters()]), history


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_run_ends_bit_for_bit_as_the_run_never_stopped(tmp_path, optimizer):
    whole, whole_history = regression(Local(), optimizer)
    runtime = Local(checkpoints=tmp_path, checkpoint_every_steps=3)
    with pytest.raises(KeyboardInterrupt):
        regression(runtime, optimizer, stop_at=8)
    seen = []
    runtime = Local(checkpoints=tmp_path, on_report=lambda step, steps, metrics: seen.append(step))
    resumed, history = regression(runtime, optimizer)
    assert seen == [7, 8, 9, 10]  # from the checkpoint at 6, not from the start
    assert torch.equal(whole, resumed)
    assert history == whole_history


def test_a_loss_that_is_not_finite_stops_before_the_update_and_is_named(tmp_path):
    with pytest.raises(DivergenceError, match="loss is nan on rank 0 at step 4, before the update"):
        regression(Local(), poison=4)


def test_the_rate_is_held_for_thirty_of_fifty_epochs_and_then_falls_to_zero():
    schedule = ScheduleRecipe()
    factors = [schedule.factor(epoch, 50) for epoch in range(51)]
    assert factors[:30] == [1.0] * 30
    assert factors[40] == pytest.approx(0.5)
    assert factors[50] == 0


def test_epochs_turn_into_steps():
    assert ScheduleRecipe(epochs=2, batch=64).total_steps(100) == 4
    assert ScheduleRecipe(epochs=2, steps=7).total_steps(100) == 7


def test_biases_have_their_own_rate_and_no_weight_decay():
    recipe = OptimizerRecipe(weight_decay=0.1, bias_lr_multiplier=2)
    weights, vectors = build(nn.Linear(2, 2), recipe).param_groups
    assert (weights["weight_decay"], weights["lr_multiplier"]) == (0.1, 1)
    assert (vectors["weight_decay"], vectors["lr_multiplier"]) == (0, 2)


def test_the_mean_of_micro_batches_is_the_mean_of_the_batch():
    net, x = nn.Linear(3, 1), torch.randn(12, 3)

    def part(rows):
        loss = net(x[rows]).square().mean()
        return Update({"loss": loss.detach()}, {"net": list(torch.autograd.grad(loss, trainable(net)))})

    whole = part(np.arange(12))
    parts = accumulate(part, micro_batches(np.arange(12), 5))
    torch.testing.assert_close(parts.metrics, whole.metrics)
    torch.testing.assert_close(parts.gradients, whole.gradients)


def test_micro_batches_that_would_be_unequal_are_refused():
    with pytest.raises(ConfigurationError, match="10 samples do not divide into 3"):
        micro_batches(np.arange(10), 4)


class Rank(Local):
    """One of several workers that share nothing but a list."""

    def __init__(self, rank, world_size, parts):
        super().__init__()
        self.rank, self.world_size, self.parts = rank, world_size, parts

    def all_reduce_sum(self, tensor):
        self.parts.append(tensor)
        return tensor


def test_a_table_is_the_same_from_any_number_of_workers():
    def compute(rows):
        return torch.arange(rows.start, rows.stop).float()[:, None] ** 2

    whole = over_workers(Local(), 10, 3, compute)
    parts = []
    for rank in range(3):
        over_workers(Rank(rank, 3, parts), 10, 3, compute)
    assert torch.equal(sum(parts), whole)


def test_a_batch_is_shared_without_overlap_or_gap():
    shares = [range(12)[share(Rank(rank, 3, []), 12)] for rank in range(3)]
    assert [list(s) for s in shares] == [list(range(0, 4)), list(range(4, 8)), list(range(8, 12))]
    with pytest.raises(ConfigurationError, match="10 does not divide over 3 workers: use"):
        share(Rank(0, 3, []), 10)


def test_states_survive_a_file_with_their_facts(tmp_path):
    save_state(tmp_path / "a.safetensors", {"x": torch.arange(3)}, step=7)
    tensors, facts = load_state(tmp_path / "a.safetensors")
    assert tensors["x"].tolist() == [0, 1, 2]
    assert facts == {"step": 7}


def test_a_network_without_gradients_or_leave_to_move_stays_and_its_last_metrics_stay_in_the_history():
    nets = {name: nn.Linear(1, 1) for name in ("often", "seldom", "never")}
    before = {name: net.weight.item() for name, net in nets.items()}
    runtime, moves = Local(), []

    def update(step):
        names = ("often", "seldom", "never") if step == 0 else ("often", "never")
        losses = {name: nets[name](torch.ones(1, 1)).sum() + step for name in names}
        grads = {name: list(torch.autograd.grad(loss, trainable(nets[name]))) for name, loss in losses.items()}
        return Update({name: loss.detach() for name, loss in losses.items()}, grads)

    def moving(means):
        moves.append(means["often"])
        return ("often", "seldom")

    recipe = OptimizerRecipe(name="sgd", lr=0.5, momentum=0.0)
    trainees = {name: Trainee(runtime.engine(net, build(net, recipe), 0), 0.5) for name, net in nets.items()}
    history = fit(runtime, trainees, update, ScheduleRecipe(hold=1), 3, 1, moving=moving)
    moved = {name: before[name] - net.weight.item() for name, net in nets.items()}
    assert moved == pytest.approx({"often": 1.5, "seldom": 0.5, "never": 0}, abs=1e-6)
    assert moves == [row["often"] for row in history]
    assert {row["seldom"] for row in history} == {history[0]["seldom"]}


def test_reports_say_where_the_time_of_a_step_goes_and_at_which_rates(tmp_path, monkeypatch):
    now = 0.0

    def spend(seconds):
        nonlocal now
        now += seconds

    class Slow(Local):
        def save_checkpoint(self, step, write):
            spend(0.6)

    class SlowEngine(LocalEngine):
        def step(self, gradients, lr):
            spend(0.04)

    def update(step):
        for name, seconds in {"data": 0.02, "backward": 0.03}.items():
            with timed(name):
                spend(seconds)
        spend(0.01)
        return Update({"loss": torch.zeros(())}, {"net": [torch.zeros(1, 3), torch.zeros(1)]})

    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now)
    net, told = nn.Linear(3, 1), []
    runtime = Slow(checkpoints=tmp_path, checkpoint_every_steps=6, on_report=lambda *report: told.append(report))
    fit(runtime, {"net": Trainee(SlowEngine(net, build(net, OptimizerRecipe()), 0), 0.05)}, update, SCHEDULE, 10, 4)
    last = told[-1][2]  # its own optimizer step is still to come
    expected = {"data": 0.02, "forward": 0.01, "backward": 0.03, "optimizer": 0.036, "metrics": 0, "checkpoint": 0.06}
    assert {name: last[f"seconds_{name}"] for name in PARTS} == pytest.approx(expected)
    assert last["images_per_s"] == pytest.approx(40 / (now - 0.04))
    assert [metrics["lr_net"] for _, _, metrics in told][5:8] == pytest.approx([0.05, 0.05, 0.0375])


def test_time_that_nobody_measures_is_not_measured():
    with timed("data"):
        pass
    watch = Stopwatch(torch.device("cpu"))
    with watch.running(), timed("forward"), timed("backward"):
        pass
    with timed("data"):
        pass
    assert {name for name, seconds in watch.seconds.items() if seconds} == {"forward", "backward"}
