"""Real workers under Ray Train, with a directory as the store: restarts, take-overs, and failures that say why."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import ray
import small_study as small
import torch
import toy_training as toy
from ray.util.placement_group import placement_group, remove_placement_group

from compgan_core.errors import CapacityError, CompganError, DivergenceError
from compgan_core.training.runtime import load_state
from orchestrator.artifacts.store import open_store
from orchestrator.runtime.cluster import Workers
from orchestrator.runtime.ray_train import run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

TWO = Workers(num_workers=2, zero_stage=1, checkpoint_every_steps=toy.SAVE_EVERY)


class Trial:
    """A store of its own, and what the workers said."""

    def __init__(self, directory: Path):
        self.directory, self.store = directory, open_store(directory / "store")
        self.events: list[dict] = []

    def run(self, workers: Workers, **how: object) -> None:
        self.events.clear()
        run(partial(toy.train, **how), name="toy", workers=workers, store=self.store, on_event=self.events.append)

    def result(self) -> dict[str, torch.Tensor]:
        path = self.directory / "result"
        self.store.get_file(toy.RESULT, path)
        return load_state(path)[0]

    def said(self, text: str) -> int:
        return sum(text in event.get("message", "") for event in self.events)

    def steps(self) -> list[int]:
        return [event["step"] for event in self.events if event["kind"] == "progress"]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    trial = Trial(tmp_path_factory.mktemp("undisturbed"))
    trial.run(TWO)
    return trial


def test_progress_arrives_in_order_up_to_the_last_step(undisturbed: Trial) -> None:
    assert undisturbed.steps() == sorted(undisturbed.steps())
    assert undisturbed.steps()[-1] == toy.STEPS
    assert [e["metrics"]["loss"] for e in undisturbed.events if e["kind"] == "progress"][-1] >= 0


def test_only_acknowledged_checkpoints_remain_and_no_more_than_asked_for(undisturbed: Trial) -> None:
    pointers = [int(Path(key).stem) for key in undisturbed.store.keys("checkpoints/")]
    files = [key.split("/")[2] for key in undisturbed.store.keys("train/")]
    saved = [int(name[-8:]) for name in files if name.startswith("toy-")]
    assert pointers == saved == [10, 15]


def test_a_killed_worker_resumes_from_the_last_checkpoint_and_changes_no_bit(undisturbed: Trial, trial: Trial) -> None:
    trial.run(TWO, accident="killed", once=trial.directory / "killed")
    assert (trial.directory / "killed").exists()
    assert trial.said("has begun") == 4
    assert trial.said("restarting from the last checkpoint: worker") == 1
    assert trial.said("continuing from the checkpoint at step 10") == 1
    expected, found = undisturbed.result(), trial.result()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_divergence_on_one_rank_ends_the_run_untried_and_another_number_of_workers_can_take_over(
    undisturbed: Trial, trial: Trial
) -> None:
    with pytest.raises(DivergenceError) as caught:
        trial.run(TWO, accident="diverged")
    assert str(caught.value) == "the loss is nan"
    assert caught.value.__notes__[0].startswith("on rank 1:\nTraceback")
    assert trial.said("has begun") == 2
    trial.run(Workers(zero_stage=2, checkpoint_every_steps=toy.SAVE_EVERY))
    assert trial.said("continuing from the checkpoint at step 10") == 1
    expected, found = undisturbed.result(), trial.result()
    assert max((expected[name] - found[name]).abs().max().item() for name in expected) < 1e-6


def test_a_worker_that_hangs_is_named_with_its_last_step_and_the_run_goes_on(undisturbed: Trial, trial: Trial) -> None:
    trial.run(TWO.model_copy(update={"collective_timeout_s": 10}), accident="hung", once=trial.directory / "hung")
    assert trial.said("silent since step 11: rank 1") == 1
    assert trial.said("continuing from the checkpoint at step 10") == 1
    expected, found = undisturbed.result(), trial.result()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_was_cleaned_by_hand_and_left_by_another_ray_goes_on_from_the_last_whole_checkpoint(
    undisturbed: Trial, trial: Trial
) -> None:
    with pytest.raises(DivergenceError):
        trial.run(TWO, accident="diverged")
    left = [*trial.store.keys("train/")]
    for key in left:
        if "-00000010/" in key:
            trial.store.delete(key)
    for attempt in {key.split("/")[1] for key in left}:
        trial.store.put_bytes(f"train/{attempt}/checkpoint_manager_snapshot.json", b'{"ray_version": "99.0.0"}')
    repaired = small.facts(small.orch("repair", "--delete", "--store", trial.store.url, "--json"))
    assert [damage["key"] for damage in repaired["damage"]] == [f"checkpoints/toy/{toy.FINGERPRINT}/00000010.json"]
    trial.run(TWO)
    assert trial.said("continuing from the checkpoint at step 5") == 1
    assert trial.said("a checkpoint cannot be used") == 0
    expected, found = undisturbed.result(), trial.result()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_bug_ends_the_run_when_its_tries_are_used_up(trial: Trial) -> None:
    with pytest.raises(CompganError, match="once too often: worker 0 raised ValueError: a bug"):
        trial.run(Workers(max_failures=1), accident="crashed", at_step=0)
    assert trial.said("has begun") == 2
    assert trial.said("restarting from the last checkpoint") == 1


def test_ctrl_c_stops_the_workers(trial: Trial) -> None:
    def interrupt(event: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(partial(toy.train, pause_s=10), name="toy", workers=Workers(), store=trial.store, on_event=interrupt)
    wait_for_cpus(2)


def test_more_workers_than_the_cluster_can_hold_is_refused_at_once_with_the_arithmetic(trial: Trial) -> None:
    began = time.monotonic()
    with pytest.raises(CapacityError, match="asked 4 workers x 1 CPU = 4 CPU, the cluster has 2 CPU"):
        trial.run(Workers(num_workers=4))
    assert time.monotonic() - began < 2


def test_workers_that_cannot_start_because_others_hold_the_cluster_end_in_capacity_error(trial: Trial) -> None:
    held = placement_group([{"CPU": 2}])
    assert held.wait(10)
    with pytest.raises(CapacityError, match="no worker could start within 3 seconds"):
        trial.run(Workers(start_timeout_s=3))
    remove_placement_group(held)
    wait_for_cpus(2)


def wait_for_cpus(n: float) -> None:
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < n:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)
