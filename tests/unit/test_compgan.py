"""Algorithm 1, the seven losses, and whose gradient goes where."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from compgan_core import losses, transforms
from compgan_core.compgan import (
    CALLS,
    CELLS,
    TARGET,
    CompGAN,
    Tuples,
    against_discriminator,
    generator_gradients,
    generator_terms,
)
from compgan_core.losses import LAMBDA, MU, TERMS
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import Discriminator, DiscriminatorRecipe, Generator, GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.randomness import seeded

BATCH, SIZE = 2, 32


@dataclasses.dataclass
class World:
    gan: CompGAN
    classifier: FaceClassifier
    discriminator: Discriminator
    batch: Tuples

    def terms(self):
        return self.terms_of(self.gan(self.batch.reals[0], self.batch.references))

    def terms_of(self, fakes):
        against = against_discriminator(fakes, self.batch, self.discriminator)
        return generator_terms(fakes, self.batch, self.classifier, against.term)


@pytest.fixture
def world():
    with seeded(0, "test world"):
        recipe = GeneratorRecipe(width=4, downs=3, skips=1)
        reals = torch.rand(4, BATCH, 3, SIZE, SIZE) * 2 - 1
        references = torch.rand(8, BATCH, 3, SIZE, SIZE) * 2 - 1
        labels = LightCNNRecipe(channels=(4, 4, 4, 4), blocks=(1, 0, 0, 0), feature=8)
        return World(
            CompGAN(Generator(recipe), Generator(recipe)),
            FaceClassifier(labels, SIZE, expressions=3, poses=3, identities=3).requires_grad_(False),
            Discriminator(DiscriminatorRecipe(width=4, downs=3, hidden=8), SIZE),
            Tuples(
                reals,
                references,
                pose=torch.tensor([[0, 1], [2, 0]]),
                expression=torch.tensor([[1, 1], [0, 2]]),
                identity=torch.tensor([2, 0]),
            ),
        )


class Recorder(torch.nn.Module):
    """Returns its source plus one, and remembers its references."""

    def __init__(self):
        super().__init__()
        self.references = []

    def forward(self, source, reference):
        self.references.append(int(reference[0, 0, 0, 0]))
        return source + 1


def test_algorithm_1_calls_each_generator_four_times_with_its_own_references():
    pose, exp = Recorder(), Recorder()
    references = torch.arange(8.0).view(8, 1, 1, 1, 1).expand(8, 1, 3, 2, 2)
    fakes = CompGAN(pose, exp)(torch.zeros(1, 3, 2, 2), references)
    assert pose.references == [0, 3, 4, 7]
    assert exp.references == [1, 2, 5, 6]
    assert fakes[:, 0, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]  # each step edits what the step before made


def test_the_outputs_are_those_of_the_unrolled_table():
    assert [call.cell for call in CALLS] == [
        "pt_es", "ps_et", "pt_et", "pt_et", "ps_et", "pt_es", "ps_es", "ps_es",
    ]  # fmt: skip
    for call in CALLS:
        before = CELLS[0] if call.source < 0 else CALLS[call.source].cell
        changed = [a != b for a, b in zip(before.split("_"), call.cell.split("_"), strict=True)]
        assert changed == [call.generator == "pose", call.generator == "exp"]  # one attribute, the generator's own


def test_generators_that_return_the_truth_have_no_con_recon_or_loop_loss(world):
    fakes = world.batch.reals[TARGET]
    terms = world.terms_of(fakes)
    assert terms["loop"].item() == 0
    for name in ("con", "recon"):  # F_cls sees eight faces in one pass and four in another, which rounds differently
        assert terms[name].item() < 1e-6


def test_the_losses_of_mirrored_tuples_are_those_of_the_tuples_and_f_cls_sees_none_in_a_mirror(world):
    fakes = world.gan(world.batch.reals[0], world.batch.references)
    which = torch.tensor([False, True])
    reals, references, in_mirror = (
        transforms.mirror(faces, which) for faces in (world.batch.reals, world.batch.references, fakes)
    )
    expected, none = world.terms_of(fakes), torch.zeros(())
    batch = world.batch._replace(reals=reals, references=references, mirrored=which)
    found = generator_terms(in_mirror, batch, world.classifier, none)
    for name in set(TERMS) - {"adv"}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    unaware = generator_terms(in_mirror, batch._replace(mirrored=None), world.classifier, none)
    assert abs(unaware["pose"] - expected["pose"]) > 1e-4


def test_eq_1_to_3_sum_eight_cross_entropies_of_the_intended_labels(world):
    fakes = world.gan(world.batch.reals[0], world.batch.references)
    terms = world.terms_of(fakes)
    exp = pose = identity = 0.0
    for call, fake in zip(CALLS, fakes, strict=True):
        logits = world.classifier(fake)
        p, e = (int(part.endswith("t")) for part in call.cell.split("_"))
        exp += F.cross_entropy(logits.expression, world.batch.expression[e])
        pose += F.cross_entropy(logits.pose, world.batch.pose[p])
        identity += F.cross_entropy(logits.identity, world.batch.identity)
    for name, expected in (("exp", exp), ("pose", pose), ("id", identity)):
        torch.testing.assert_close(terms[name], expected, rtol=1e-5, atol=1e-6)


def test_eq_4_to_10_by_hand(world):
    (source, pt_es, ps_et, pt_et), cls = world.batch.reals, world.classifier
    a1, b1, a2, b2, a3, b3, a4, b4 = world.gan(source, world.batch.references)

    def both(fake, real):
        maps = zip(cls.maps_and_logits(fake)[0], cls.maps_and_logits(real)[0], strict=True)
        return (fake - real).abs().mean() + 0.1 * sum((f - r).abs().mean() for f, r in maps)

    terms = world.terms()
    expected = {
        "con": both(a1, pt_es) + both(a2, pt_et) + both(b1, ps_et) + both(b2, pt_et),
        "recon": both(a3, ps_et) + both(a4, source) + both(b3, pt_es) + both(b4, source),
        "loop": (a1 - b3).abs().mean() + (a3 - b1).abs().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-6)


def test_eq_11_by_hand():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([[0.5], [-3.0]])
    d = -torch.sigmoid(real).log().mean() - (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(losses.discriminator_loss(real, fake), d)
    g = -torch.sigmoid(fake).log().sum(0).mean()
    torch.testing.assert_close(losses.generator_adversarial_loss(fake), g)


def test_each_generator_gets_the_gradient_of_its_own_weighted_sum(world):
    pose, exp = generator_gradients(world.terms(), world.gan, LAMBDA, MU, 0.5, 0.25)
    for module, found, weights in ((world.gan.pose, pose, LAMBDA), (world.gan.exp, exp, MU)):
        world.gan.zero_grad()
        scale = {"exp": 0.5, "pose": 0.5, "id": 0.5, "adv": 0.25}
        terms = world.terms()
        sum(getattr(weights, name) * scale.get(name, 1) * terms[name] for name in TERMS).backward()
        for parameter, gradient in zip(module.parameters(), found, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_mu_never_changes_a_gradient_of_g_pose_nor_lambda_one_of_g_exp(world, term):
    pose, exp = generator_gradients(world.terms(), world.gan, LAMBDA, MU)
    pose_too, exp_changed = generator_gradients(world.terms(), world.gan, LAMBDA, MU.model_copy(update={term: 99.0}))
    assert all(torch.equal(a, b) for a, b in zip(pose, pose_too, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(exp, exp_changed, strict=True))
    _, exp_too = generator_gradients(world.terms(), world.gan, LAMBDA.model_copy(update={term: 99.0}), MU)
    assert all(torch.equal(a, b) for a, b in zip(exp, exp_too, strict=True))


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_zero_is_off(world, term):
    off = LAMBDA.model_copy(update={term: 0.0})
    terms = world.terms()
    expected, _ = generator_gradients(dict(terms), world.gan, off, MU)
    terms = world.terms()
    terms[term] = terms[term] * float("nan")
    found, _ = generator_gradients(terms, world.gan, off, MU.model_copy(update={term: 0.0}))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_recomputed_activations_give_the_same_gradients_and_are_not_kept(world):
    kept, found = {}, {}
    for world.gan.recompute in (False, True):
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            fakes = world.gan(world.batch.reals[0], world.batch.references)
        kept[world.gan.recompute] = sum(storages.values())
        found[world.gan.recompute] = generator_gradients(world.terms_of(fakes), world.gan, LAMBDA, MU)
    assert kept[True] < kept[False] / 2
    for ours, plain in zip(found[True], found[False], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_f_cls_and_d_get_no_gradient_from_the_generators_losses(world):
    world.classifier.requires_grad_(True)
    generator_gradients(world.terms(), world.gan, LAMBDA, MU)
    assert all(p.grad is None for p in world.classifier.parameters())
    assert all(p.grad is None for p in world.discriminator.parameters())
    assert all(p.grad is None for p in world.gan.parameters())


def test_the_default_weights_are_the_papers():
    assert LAMBDA.model_dump() == {"exp": 20, "pose": 20, "id": 10, "con": 30, "recon": 15, "loop": 10, "adv": 1}
    assert MU.model_dump() == {"exp": 30, "pose": 10, "id": 15, "con": 40, "recon": 15, "loop": 10, "adv": 1}


def test_faces_of_unknown_identity_add_nothing_to_the_identity_loss():
    logits = torch.randn(8, 2, 3)
    labels = torch.tensor([1, -1]).expand(8, 2)
    known = losses.prediction_loss(logits[:, :1], labels[:, :1])
    torch.testing.assert_close(losses.prediction_loss(logits, labels), known / 2)
