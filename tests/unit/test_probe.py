"""The probe reads what is painted into faces, and training does not notice it."""

import numpy as np
import pytest
import torch
from torch import nn

from compgan_core import networks
from compgan_core.compgan import CompGAN
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.labels import Labels
from compgan_core.data.shots import shots
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.data.tuples import TupleSampler
from compgan_core.lapse import Lapse, due
from compgan_core.losses import LAMBDA, MU
from compgan_core.nets.classifier import Logits
from compgan_core.nets.gan import DiscriminatorRecipe, GeneratorRecipe
from compgan_core.nets.judge import JudgeNetRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.probe import probe
from compgan_core.training import gan as gan_training
from compgan_core.training.gan import CompGANRecipe
from compgan_core.training.optim import ScheduleRecipe
from compgan_core.training.runtime import Local

SIZE, STEP = 16, 20
CHANNELS = ("identity", "pose", "expression")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """5 identities x 3 poses x 10 expressions x 2 frames, painted in the colour of their labels."""
    grid = np.stack(np.meshgrid(range(5), range(3), range(10), range(2), indexing="ij"), -1).reshape(-1, 4)
    names = ([f"{name}{v}" for v in grid[:, i]] for i, name in enumerate("ipe"))
    key = [f"{row}" for row in map(tuple, grid.tolist())]
    labels = Labels.from_names(*names, sequence=[""] * len(grid), frame=grid[:, 3], key=key)
    images = np.broadcast_to((grid[:, None, None, :3] * STEP).astype(np.uint8), (len(grid), SIZE, SIZE, 3))
    directory = tmp_path_factory.mktemp("painted")
    write_cache(np.ascontiguousarray(images), labels, directory)
    return Faces.open(directory)


class Painter(nn.Module):
    """Takes one colour from the reference, or leaves the source as it is."""

    def __init__(self, attribute=None):
        super().__init__()
        self.channel = CHANNELS.index(attribute) if attribute else None

    def forward(self, source, reference):
        edited = source.clone()
        if self.channel is not None:
            edited[:, self.channel] = reference[:, self.channel]
        return edited


class Reader(nn.Module):
    """Reads the labels off the colours; its feature is the colour of the expression."""

    def forward(self, x):
        seen = ((x.mean((2, 3)) + 1) * 127.5 / STEP).round().long()
        identity, pose, expression = (nn.functional.one_hot(column, 16) for column in seen.T)
        return Logits(expression, pose, identity)

    def features(self, x):
        return x[:, 2:].mean((2, 3))


def figures(faces, gan, task="ER-FE", **settings):
    split = make_split(faces.labels, SplitRecipe(task=task, novel_pose="p0"))
    drawn = shots(faces.labels, split, 2 if task in ("ER-FE", "ER-FP", "ER-FID") else 0, 0, 0)
    reader = Reader()
    return probe(gan, reader, reader, faces, split, drawn, SIZE, 0, torch.device("cpu"), **settings)


PERFECT = CompGAN(Painter("pose"), Painter("expression"))
IDLE = CompGAN(Painter(), Painter())


@pytest.mark.parametrize("task", ["ER-FE", "ER-FID", "ER-FP"])
def test_perfect_generators_are_read_as_intended(faces, task):
    found = figures(faces, PERFECT, task)
    names = ("probe_pose", "probe_expression", "probe_identity", "probe_few_shot", "probe_edits_alone")
    assert found == dict.fromkeys(names, 100.0)


def test_generators_that_change_nothing_keep_the_person_and_reach_no_target(faces):
    found = figures(faces, IDLE)
    assert found["probe_identity"] == 100
    assert 50 <= found["probe_pose"] < 85  # all of the expression edits, and a third of the pose edits
    assert 50 <= found["probe_expression"] < 75
    assert max(found["probe_few_shot"], found["probe_edits_alone"]) < 100


@pytest.mark.parametrize("task", ["ER-SS", "ER-ZID", "ER-ZP"])
def test_a_task_without_shots_has_the_attribute_figures_only(faces, task):
    assert figures(faces, PERFECT, task).keys() == {"probe_pose", "probe_expression", "probe_identity"}


class Watched(Local):
    """Probes at some steps, with networks of its own."""

    def __init__(self, faces, at):
        super().__init__()
        self.faces, self.at, self.seen = faces, at, []
        self.split = make_split(faces.labels, SplitRecipe(task="ER-FE"))
        self.judge = networks.face_judge(JudgeNetRecipe(width=8, downs=2, feature=8), SIZE, faces.labels, 0)

    def observe(self, step, steps, networks):
        if step in self.at:
            gan = CompGAN(networks["pose"], networks["exp"])
            drawn = shots(self.faces.labels, self.split, 2, 0, 0)
            device = torch.device("cpu")
            before = torch.get_rng_state()
            found = probe(gan, self.judge, self.f_cls, self.faces, self.split, drawn, SIZE, 0, device)
            assert torch.equal(torch.get_rng_state(), before)
            self.seen.append((step, steps, found))


RECIPE = CompGANRecipe(
    generator=GeneratorRecipe(width=4, downs=2, residual_blocks=1, skips=1),
    discriminator=DiscriminatorRecipe(width=4, downs=2, hidden=8),
    schedule=ScheduleRecipe(steps=6, batch=2, micro_batch=2),
    precision="bfloat16",
    warmup_tuples=2,
    ramp_tuples=4,
)


def trained(runtime, faces):
    """(generators, D, history) of six steps."""
    narrow = LightCNNRecipe(channels=(2, 2, 2, 2), blocks=(1, 0, 0, 0), feature=4)
    gan = networks.comp_gan(RECIPE.generator, 0)
    discriminator = networks.discriminator(RECIPE.discriminator, SIZE, 0)
    runtime.f_cls = networks.face_classifier(narrow, SIZE, faces.labels, 0)
    tuples = gan_training.tuples_of(
        faces, TupleSampler(faces.labels, np.arange(len(faces)), 0), SIZE, 0, Local().device
    )
    history = gan_training.train(runtime, gan, discriminator, runtime.f_cls, tuples, RECIPE, LAMBDA, MU, len(faces))
    return gan, discriminator, history


def test_training_that_is_probed_ends_bit_for_bit_as_training_that_is_not(faces):
    watched = Watched(faces, at={1, 3, 4, 6})
    *alone, history = trained(Local(), faces)
    *observed, history_too = trained(watched, faces)
    assert [(step, steps) for step, steps, _ in watched.seen] == [(1, 6), (3, 6), (4, 6), (6, 6)]
    assert all("probe_few_shot" in found for *_, found in watched.seen)
    assert history == history_too
    for ours, theirs in zip(alone, observed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert {m.training for m in theirs.modules()} == {True}
    assert not any(m.training for m in watched.f_cls.modules())


class Drawn(Local):
    """Draws the fixed faces of a time-lapse after each step, twice."""

    def __init__(self, faces):
        super().__init__()
        self.lapse = Lapse(faces, make_split(faces.labels, SplitRecipe(task="ER-FE")), SIZE, 0, torch.device("cpu"))
        self.pictures = []

    def observe(self, step, steps, networks):
        before = torch.get_rng_state()
        self.pictures.append(self.lapse(networks))
        assert self.lapse(networks) == self.pictures[-1]
        assert torch.equal(torch.get_rng_state(), before)


def test_training_whose_faces_are_drawn_ends_bit_for_bit_as_training_whose_are_not(faces):
    runtime = Drawn(faces)
    *alone, history = trained(Local(), faces)
    *observed, history_too = trained(runtime, faces)
    assert len(set(runtime.pictures)) == 6
    assert history == history_too
    for ours, theirs in zip(alone, observed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert {m.training for m in theirs.modules()} == {True}


def test_pictures_are_due_at_steps_that_no_restart_moves():
    assert [step for step in range(1, 401) if due(step, 400)] == [1, *range(50, 401, 50)]
    assert sum(due(step, 10_007) for step in range(1, 10_008)) == 41
