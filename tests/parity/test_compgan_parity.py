"""Two DeepSpeed workers make what one process makes: the same samples, gradients, weights and synthesized faces."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from compgan_core.compgan import CompGAN
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.labels import Labels
from compgan_core.data.shots import shots
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.data.tuples import TupleSampler
from compgan_core.editors import ByReference
from compgan_core.losses import LAMBDA, MU
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import Discriminator, DiscriminatorRecipe, Generator, GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.randomness import generator, seeded
from compgan_core.synthesize import edited, plan_edits, synthesize
from compgan_core.training import gan as gan_training
from compgan_core.training.gan import CompGANRecipe
from compgan_core.training.optim import OptimizerRecipe, ScheduleRecipe
from compgan_core.training.runtime import Local, load_state, save_state
from orchestrator.runtime.deepspeed_engine import DeepSpeedEngine
from orchestrator.runtime.selftest import in_processes

pytestmark = pytest.mark.slow

SIZE, STORED, STEPS = 32, 36, 5
SGD = OptimizerRecipe(name="sgd", lr=3e-4, momentum=0.9)
RECIPE = CompGANRecipe(
    generator=GeneratorRecipe(width=8, downs=3, residual_blocks=1, skips=2),
    discriminator=DiscriminatorRecipe(width=8, downs=3, hidden=16),
    schedule=ScheduleRecipe(steps=STEPS, batch=4, micro_batch=4),
    generator_optimizer=SGD,
    discriminator_optimizer=SGD,
    warmup_tuples=4,
    ramp_tuples=8,
)


class Gloo(Local):
    """A worker of a process group, without Ray."""

    def __init__(self, zero_stage):
        super().__init__()
        self.rank, self.world_size, self.zero_stage = distributed.get_rank(), distributed.get_world_size(), zero_stage

    def engine(self, module, optimizer, max_grad_norm):
        return DeepSpeedEngine(module, optimizer, max_grad_norm, self.zero_stage)

    def all_reduce_sum(self, tensor):
        total = tensor.clone()
        distributed.all_reduce(total)
        return total


def make_faces(directory):
    """3 identities x 2 poses x 3 expressions x 2 frames of noise."""
    grid = np.stack(np.meshgrid(range(3), range(2), range(3), range(2), indexing="ij"), -1).reshape(-1, 4)
    labels = Labels.from_names(
        *([f"{name}{v}" for v in grid[:, i]] for i, name in enumerate("ipe")),
        sequence=[f"s{i}{e}" for i, _, e, _ in grid],
        frame=grid[:, 3],
        key=[f"{row}" for row in map(tuple, grid.tolist())],
    )
    images = generator(0, "noise").integers(0, 256, (len(grid), STORED, STORED, 3), dtype=np.uint8)
    write_cache(images, labels, directory)
    return Faces.open(directory)


def networks():
    with seeded(0, "parity"):
        gan = CompGAN(Generator(RECIPE.generator), Generator(RECIPE.generator))
        discriminator = Discriminator(RECIPE.discriminator, SIZE)
        narrow = LightCNNRecipe(channels=(4, 6, 8, 6), blocks=(1, 1, 1, 1), feature=12)
        return gan, discriminator, FaceClassifier(narrow, SIZE, 3, 2, 3)


def train(runtime, faces, path, recipe=RECIPE):
    """Five steps of Comp-GAN, then a set of synthesized faces; rank 0 keeps both, and the metrics."""
    torch.set_num_threads(1)
    gan, discriminator, classifier = networks()
    rows = np.arange(len(faces.labels))
    sampler = TupleSampler(faces.labels, rows, 0, RECIPE.reference_mismatch)
    tuples = gan_training.tuples_of(faces, sampler, SIZE, 0, runtime.device, recipe.mirror)
    history = gan_training.train(runtime, gan, discriminator, classifier, tuples, recipe, LAMBDA, MU, len(rows))
    split = make_split(faces.labels, SplitRecipe(task="ER-FE"))
    edits = plan_edits("exp", "expression", faces.labels, split, shots(faces.labels, split, 1, 0, 0), 40, 0, 0)
    with seeded(1, "parity"):  # other weights than the trained ones, which agree to rounding only
        fixed = CompGAN(Generator(RECIPE.generator), Generator(RECIPE.generator))
    made = synthesize(runtime, edited(ByReference(fixed.exp), faces, SIZE), faces, edits, SIZE)
    if runtime.rank == 0:
        state = {f"{n}.{k}": t for n, m in (("gan", gan), ("d", discriminator)) for k, t in m.state_dict().items()}
        save_state(path, {**state, "made": torch.from_numpy(made)}, history=history)


def member(directory, zero_stage):
    train(Gloo(zero_stage), Faces.open(directory / "faces"), directory / f"zero-{zero_stage}.safetensors")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """(directory with the faces, state of one process, its history)."""
    directory = tmp_path_factory.mktemp("parity")
    faces = make_faces(directory / "faces")
    train(Local(), faces, directory / "one.safetensors")
    state, facts = load_state(directory / "one.safetensors")
    return directory, state, facts["history"]


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_two_workers_train_what_one_process_trains(one, zero_stage):
    directory, expected, history = one
    in_processes(2, member, Path(directory), zero_stage)
    found, facts = load_state(directory / f"zero-{zero_stage}.safetensors")
    assert torch.equal(found.pop("made"), expected["made"])  # the synthesized set, bit for bit
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
    for ours, theirs in zip(facts["history"], history, strict=True):
        same = {k: v for k, v in theirs.items() if not k.startswith("grad_norm")}  # norms are of a worker's own share
        assert {k: ours[k] for k in same} == pytest.approx(same, rel=1e-5)


def test_training_moved_the_weights(one):
    _, expected, _ = one
    with seeded(0, "parity"):
        start = CompGAN(Generator(RECIPE.generator), Generator(RECIPE.generator)).state_dict()
    moved = [(expected[f"gan.{k}"] - t).abs().max().item() for k, t in start.items() if t.ndim == 4]
    assert min(moved) > 1e-4  # a hundred times what the parity allows


def test_micro_batches_accumulate_to_the_batch(one, tmp_path):
    directory, expected, _ = one
    small = RECIPE.model_copy(update={"schedule": RECIPE.schedule.model_copy(update={"micro_batch": 2})})
    train(Local(), Faces.open(directory / "faces"), tmp_path / "small.safetensors", small)
    found, _ = load_state(tmp_path / "small.safetensors")
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_the_losses_of_five_steps_keep_their_golden_values(one):
    """A change that should not alter numbers must keep these; one that should must say so and replace them."""
    _, _, history = one
    golden = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
    for found, expected in zip(history, golden, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)  # other processors sum in another order
