"""Comp-GAN training that is cut off goes on with another number of workers, as if that number had never changed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_compgan_parity import RECIPE, Gloo, make_faces, networks
from torch import distributed

from compgan_core.data.cache import Faces
from compgan_core.data.tuples import TupleSampler
from compgan_core.losses import LAMBDA, MU
from compgan_core.training import gan as gan_training
from compgan_core.training.runtime import Local, load_state, save_state
from orchestrator.runtime.selftest import in_processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, SAVED, CUT, BATCH = 5, 2, 3, 6  # the step between the checkpoint and the end of the workers is lost
SCHEDULE = RECIPE.schedule.model_copy(update={"batch": BATCH, "micro_batch": BATCH})
SIX = RECIPE.model_copy(update={"schedule": SCHEDULE})
CHANGES = [(2, 1), (1, 2), (2, 3)]
STAGES = (0, 1, 2)


class Cut(Exception):
    """The node is taken away."""


class Saving(Gloo):
    """A worker that saves to a directory which all see."""

    def __init__(self, zero_stage, directory, every=0):
        super().__init__(zero_stage)
        self.checkpoints, self.checkpoint_every_steps = directory, every

    def save_checkpoint(self, step, write):
        if self.rank == 0:
            super().save_checkpoint(step, write)
        distributed.barrier()


def train(runtime, faces, result, cut=STEPS):
    """Train up to the step `cut`, or to the end. Each worker writes which samples it saw, by step."""
    torch.set_num_threads(1)
    gan, discriminator, classifier = networks()
    rows = np.arange(len(faces.labels))
    sampler = TupleSampler(faces.labels, rows, 0, SIX.reference_mismatch)
    tuples = gan_training.tuples_of(faces, sampler, 32, 0, runtime.device)
    seen = {}

    def counted(samples):
        step = int(samples[0]) // BATCH
        if step == cut:
            raise Cut
        seen[step] = samples.tolist()
        return tuples(samples)

    try:
        gan_training.train(runtime, gan, discriminator, classifier, counted, SIX, LAMBDA, MU, len(rows))
    except Cut:
        return
    if runtime.rank == 0:
        state = {f"{n}.{k}": t for n, m in (("gan", gan), ("d", discriminator)) for k, t in m.state_dict().items()}
        save_state(result, state)
    result.with_name(f"{result.name}-rank{runtime.rank}.json").write_text(json.dumps(seen))


def begin(directory):
    """Train until the workers are lost, at every ZeRO stage."""
    for stage in STAGES:
        checkpoints = directory / f"{distributed.get_world_size()}-zero{stage}"
        train(Saving(stage, checkpoints, SAVED), Faces.open(directory / "faces"), directory / "none", CUT)


def go_on(directory, before):
    for stage in STAGES:
        name = f"{before}to{distributed.get_world_size()}-zero{stage}"
        train(Saving(stage, directory / f"{before}-zero{stage}"), Faces.open(directory / "faces"), directory / name)


def both(directory):
    """What a group of one has to do, in one start of its process."""
    begin(directory)
    go_on(directory, 2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = Path(tmp_path_factory.mktemp("elastic"))
    train(Local(), make_faces(directory / "faces"), directory / "whole")
    in_processes(2, begin, directory)
    in_processes(1, both, directory)
    in_processes(2, go_on, directory, 1)
    in_processes(3, go_on, directory, 2)
    return directory


@pytest.mark.parametrize("zero_stage", STAGES)
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_the_weights_are_those_of_a_run_that_never_changed(directory, before, after, zero_stage):
    expected, found = (load_state(directory / name)[0] for name in ("whole", f"{before}to{after}-zero{zero_stage}"))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_each_step_sees_the_samples_it_would_have_seen(directory, before, after):
    parts = [json.loads(path.read_text()) for path in directory.glob(f"{before}to{after}-zero1-rank*.json")]
    assert len(parts) == after
    for step in range(SAVED, STEPS):
        assert sorted(n for part in parts for n in part[str(step)]) == [*range(step * BATCH, (step + 1) * BATCH)]
    assert all(set(part) == {str(step) for step in range(SAVED, STEPS)} for part in parts)  # none before the checkpoint


def test_training_moved_the_weights_after_the_change(directory):
    gan, *_ = networks()
    whole = load_state(directory / "whole")[0]
    saved = load_state(directory / "2-zero1" / f"step-{SAVED:08d}" / "state.safetensors")[0]
    moved = [(saved[f"pose/module.{k}"] - whole[f"gan.pose.{k}"]).abs().max().item() for k in gan.pose.state_dict()]
    assert max(moved) > 1e-4  # a hundred times what the parity allows
