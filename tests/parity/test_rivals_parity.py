"""Two DeepSpeed workers train the rivals as one process does: the same batch statistics, pool, and balance."""

from pathlib import Path

import pytest
import torch
from small_rivals import RECIPES, SGD, small, tuples, weights
from test_compgan_parity import Gloo

from compgan_core.training.rivals import train
from compgan_core.training.runtime import Local, load_state, save_state
from orchestrator.runtime.selftest import in_processes

pytestmark = pytest.mark.slow


def train_all(runtime, path):
    torch.set_num_threads(1)
    for recipe in RECIPES:
        rival = small(recipe)
        history = train(runtime, rival, tuples, recipe.model_copy(update={"optimizer": SGD}), 100)
        if runtime.rank == 0:
            save_state(path / f"{recipe.name}.safetensors", weights(rival), history=history)


def member(path):
    train_all(Gloo(1), path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(directory of two workers, directory of one process)"""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    in_processes(2, member, Path(two))
    train_all(Local(), one)
    return two, one


@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_two_workers_train_what_one_process_trains(trained, name):
    (found, facts), (expected, expected_facts) = (load_state(d / f"{name}.safetensors") for d in trained)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    for ours, theirs in zip(facts["history"], expected_facts["history"], strict=True):
        same = {k: v for k, v in theirs.items() if not k.startswith("grad_norm")}  # norms are of a worker's own share
        assert {k: ours[k] for k in same} == pytest.approx(same, rel=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_training_moved_the_weights(trained, recipe):
    expected, start = load_state(trained[1] / f"{recipe.name}.safetensors")[0], weights(small(recipe))
    moved = [(expected[k] - t).abs().max().item() for k, t in start.items() if t.ndim == 4]
    assert min(moved) > 1e-5  # ten times what the parity allows
