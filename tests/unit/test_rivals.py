"""The rivals' losses against hand-made values, whose gradient goes where, and resuming."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_rivals import DOMAIN, RECIPES, small, tuples, weights
from torch import nn

from compgan_core.data.labels import Labels
from compgan_core.editors import Looks
from compgan_core.randomness import normal, uniform
from compgan_core.rivals.attgan import attributes_of, gradient_penalty
from compgan_core.rivals.base import EDITED, edits_of
from compgan_core.rivals.layers import BatchNorm, ImagePool, pool_plan
from compgan_core.rivals.vaegan import AnnealedSchedule, attribute_vectors, balance, feature_nll, kl
from compgan_core.training.rivals import train
from compgan_core.training.runtime import Local

ATTGAN, CYCLEGAN, PIX2PIX, VAEGAN = RECIPES
SAMPLES = np.arange(4)
EVERY = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def backward(loss, network):
    """The gradients of a loss by torch's other way."""
    network.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in network.parameters()]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def updated(recipe, step=0):
    """A fresh rival's update, and a second rival of the same weights."""
    rival, twin = small(recipe), small(recipe)
    return rival.update(tuples(SAMPLES), SAMPLES, step, Local()), twin


def test_a_pose_edit_and_an_expression_edit_of_each_source():
    batch = tuples(SAMPLES)
    edits = edits_of(batch)
    for edited, cell, there, back in (("pose", 1, 0, 7), ("exp", 2, 1, 6)):
        edit = edits[edited]
        assert torch.equal(edit.truth, batch.reals[cell])
        assert torch.equal(edit.reference, batch.references[there])
        assert torch.equal(edit.back, batch.references[back])
    assert torch.equal(edits["pose"].wanted.pose, batch.pose[1])
    assert torch.equal(edits["pose"].wanted.expression, batch.expression[0])
    assert torch.equal(edits["exp"].wanted.pose, batch.pose[0])
    assert torch.equal(edits["exp"].wanted.expression, batch.expression[1])


def test_the_gradient_penalty_of_a_linear_critic():
    slope = torch.tensor([3.0, 4.0], requires_grad=True)  # of norm 5 everywhere
    real, fake = torch.randn(3, 2), torch.randn(3, 2)
    penalty = gradient_penalty(lambda x: x @ slope, real, fake, torch.rand(3, 1))
    assert penalty.item() == pytest.approx(16)
    (gradient,) = torch.autograd.grad(penalty, slope)
    assert gradient.tolist() == pytest.approx([2 * 4 * 3 / 5, 2 * 4 * 4 / 5])


def test_the_gradient_penalty_is_taken_on_the_line_from_real_to_fake():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(1)

    gradient_penalty(critic, torch.zeros(2, 3), torch.full((2, 3), 4.0), torch.tensor([[0.25], [0.5]]))
    assert seen[0].tolist() == [[1.0] * 3, [2.0] * 3]


def test_attgans_updates_by_hand():
    batch, edits = tuples(SAMPLES), list(edits_of(tuples(SAMPLES)).values())
    source, real = batch.reals[0].repeat(2, 1, 1, 1), torch.cat([e.truth for e in edits])
    a = attributes_of(Looks(batch.pose[0], batch.expression[0]), DOMAIN).repeat(2, 1)
    b = torch.cat([attributes_of(e.wanted, DOMAIN) for e in edits])

    update, twin = updated(ATTGAN, step=0)
    assert update.gradients.keys() == {"discriminator"}
    fake = twin.g(source, 2 * b - 1).detach()
    score, read = twin.d(real)
    where = uniform(0, "attgan line", torch.cat([2 * torch.arange(4), 2 * torch.arange(4) + 1]), 1).view(-1, 1, 1, 1)
    slopes = torch.autograd.grad(
        twin.d(x := torch.lerp(real, fake, where).requires_grad_())[0].sum(), x, create_graph=True
    )
    penalty = ((slopes[0].flatten(1).norm(dim=1) - 1) ** 2).mean()
    loss = twin.d(fake)[0].mean() - score.mean() + 10 * penalty + F.binary_cross_entropy_with_logits(read, b)
    assert_same(update.gradients["discriminator"], backward(loss, twin.d))

    update, twin = updated(ATTGAN, step=2)
    assert update.gradients.keys() == {"generator"}
    score, read = twin.d(twin.g(source, 2 * b - 1))
    l1 = (twin.g(source, 2 * a - 1) - source).abs().mean()
    loss = -score.mean() + 10 * F.binary_cross_entropy_with_logits(read, b) + 100 * l1
    assert_same(update.gradients["generator"], backward(loss, twin.g))


def test_attgans_discriminator_moves_n_d_times_before_its_generator():
    moved = [next(iter(updated(ATTGAN, step)[0].gradients)) for step in range(6)]
    assert moved == ["discriminator", "discriminator", "generator"] * 2


def test_cyclegans_updates_by_hand():
    update, twin = updated(CYCLEGAN)
    batch = tuples(SAMPLES)
    source = batch.reals[0]
    for edited, edit in edits_of(batch).items():
        g, d = twin.networks[edited], twin.d[edited]
        fake = g(source, edit.reference)
        cycle, same = F.l1_loss(g(fake, edit.back), source), F.l1_loss(g(source, edit.back), source)
        score = d(fake, edit.reference)
        loss = F.mse_loss(score, torch.ones_like(score)) + 10 * cycle + 5 * same
        assert_same(update.gradients[edited], backward(loss, g))
        real, score = d(edit.truth, edit.reference), d(fake.detach(), edit.reference)
        loss = 0.5 * (F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(score, torch.zeros_like(score)))
        assert_same(update.gradients[f"d_{edited}"], backward(loss, d))  # the pool returns the first fakes themselves


def test_pix2pixs_updates_by_hand():
    recipe = PIX2PIX.model_copy(update={"generator": PIX2PIX.generator.model_copy(update={"dropouts": 0})})
    update, twin = updated(recipe)
    batch = tuples(SAMPLES)
    source = batch.reals[0]
    for edited, edit in edits_of(batch).items():
        g, d = twin.networks[edited], twin.d[edited]
        fake = g(source, edit.reference)
        score = d(torch.cat([source, fake], 1))
        loss = F.binary_cross_entropy_with_logits(score, torch.ones_like(score)) + 100 * F.l1_loss(fake, edit.truth)
        assert_same(update.gradients[edited], backward(loss, g))
        real, score = d(torch.cat([source, edit.truth], 1)), d(torch.cat([source, fake.detach()], 1))
        loss = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        loss = 0.5 * (loss + F.binary_cross_entropy_with_logits(score, torch.zeros_like(score)))
        assert_same(update.gradients[f"d_{edited}"], backward(loss, d))


def test_pix2pix_drops_half_of_the_inner_maps_by_the_samples_number():
    g = small(PIX2PIX).networks["pose"]
    masks = []

    def keep(layer, maps):
        masks.append((layer, maps.shape))
        return torch.zeros_like(maps)

    batch = tuples(SAMPLES)
    dropped = g(batch.reals[0], batch.references[0], keep)
    assert masks == [(1, torch.Size([4, 8, 8, 8]))]
    assert not torch.equal(dropped, g(batch.reals[0], batch.references[0]))
    one, two = (small(PIX2PIX).update(tuples(SAMPLES), s, 0, Local()).metrics for s in (SAMPLES, SAMPLES + 4))
    assert not torch.equal(one["pose_l1"], two["pose_l1"])


def test_vaegans_updates_by_hand():
    update, twin = updated(VAEGAN)
    faces = tuples(SAMPLES).reals.flatten(0, 1)
    numbers = torch.cat([SAMPLES_T * 4 + cell for cell in range(4)])
    noise, z_p = normal(0, "vaegan latent", numbers, 12).chunk(2, dim=1)
    expected = {}
    for name in ("encoder", "decoder", "discriminator"):
        mean, log_variance = twin.encoder(faces)
        made = twin.decoder(torch.cat([mean + noise * torch.exp(log_variance / 2), z_p]))
        logits, maps = twin.d(torch.cat([faces, made]))
        likelihood = 0.5 * ((maps[:16] - maps[16:32]) ** 2).sum() / 16
        labels = torch.cat([torch.ones(16), torch.zeros(32)])
        costs = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        gan = costs[:16].mean() + costs[16:].mean()
        prior = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum() / 16
        loss = {"encoder": prior + likelihood, "decoder": 1e-6 * likelihood - (1 - 1e-6) * gan, "discriminator": gan}
        expected[name] = backward(loss[name], twin.networks[name])
    for name, gradients in expected.items():
        assert_same(update.gradients[name], gradients)


SAMPLES_T = torch.from_numpy(SAMPLES)


def test_the_prior_is_zero_for_the_standard_normal_and_known_elsewhere():
    zero = torch.zeros(2, 3)
    assert kl(zero, zero).item() == 0
    assert kl(zero + 2, zero).item() == pytest.approx(3 * 2.0)  # mu^2 / 2 for each of three
    assert kl(zero, zero + math.log(4)).item() == pytest.approx(3 * 0.5 * (4 - 1 - math.log(4)))


def test_the_likelihood_of_features_is_half_their_squared_distance():
    assert feature_nll(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)).item() == pytest.approx(0.5 * 4 * 9)


@pytest.mark.parametrize(
    ("real", "fake", "moving"),
    [
        (0.68, 0.68, {"decoder", "discriminator"}),
        (0.32, 0.68, {"decoder"}),  # D is ahead on real faces
        (0.68, 0.32, {"decoder"}),
        (0.68, 1.04, {"discriminator"}),  # the decoder fools it
        (1.04, 0.68, {"discriminator"}),
        (0.32, 1.04, {"decoder", "discriminator"}),  # both would rest
    ],
)
def test_decoder_and_discriminator_are_kept_in_balance(real, fake, moving):
    assert balance(real, fake, 0.68, 0.35) == moving


def test_vaegans_rate_falls_by_a_quarter_after_each_part():
    schedule = AnnealedSchedule(epochs=20)
    assert [schedule.factor(step, 100) for step in (0, 4, 5, 99)] == pytest.approx([1, 1, 0.75, 0.75**19])


def test_attribute_vectors_are_differences_of_means():
    z = torch.tensor([[1.0], [3.0], [8.0]])
    assert attribute_vectors(z, torch.tensor([0, 0, 2]), 4).flatten().tolist() == [-6, 0, 6, 0]


def test_the_pool_returns_its_first_faces_and_then_half_of_the_time_an_old_one():
    returned, held = pool_plan(4, np.arange(4), 0, "pool")
    assert returned.tolist() == held.tolist() == [4, 5, 6, 7]
    returned, held = pool_plan(4, np.arange(4, 1004), 0, "pool")
    fresh = returned == np.arange(4, 1004)
    assert 0.44 < fresh.mean() < 0.56
    # A face that was not returned is held, unless another took its place, in which case it was returned then.
    assert set(returned) | set(held) == set(range(1004))
    assert len(set(returned)) + len(set(held)) == 1004


def test_the_pool_is_a_function_of_the_samples_numbers():
    faces = torch.arange(40.0).view(20, 2)
    whole, parts = (ImagePool(4, (2,), 0, "pool") for _ in range(2))
    expected = whole(faces, 0, Local())
    found = torch.cat([parts(faces[i : i + 5], i, Local()) for i in range(0, 20, 5)])
    assert torch.equal(found, expected)
    assert torch.equal(parts.stored, whole.stored)
    assert not torch.equal(expected, faces)


def test_batch_norm_is_torchs():
    ours, torchs = BatchNorm(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5) * 2 + 1
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.mean, torchs.running_mean)
    assert torch.equal(ours.variance, torchs.running_var)
    assert torch.equal(ours.eval()(x), torchs.eval()(x))


@EVERY
def test_a_resumed_run_ends_bit_for_bit_as_the_run_never_stopped(tmp_path, recipe):
    def run(runtime, stop_at=None):
        rival = small(recipe)

        def until(samples):
            if stop_at is not None and samples[0] >= 4 * stop_at:
                raise KeyboardInterrupt
            return tuples(samples)

        return train(runtime, rival, until, recipe, 100), weights(rival)

    whole_history, whole = run(Local())
    with pytest.raises(KeyboardInterrupt):
        run(Local(checkpoints=tmp_path, checkpoint_every_steps=2), stop_at=5)
    history, resumed = run(Local(checkpoints=tmp_path))
    assert history == whole_history
    start = weights(small(recipe))
    assert all(torch.equal(t, whole[name]) for name, t in resumed.items())
    assert not any(torch.equal(t, start[name]) for name, t in whole.items() if t.ndim == 4 and "kept" not in name)


@EVERY
def test_no_gradient_reaches_a_network_around_its_engine(recipe):
    rival = small(recipe)
    for step in range(3):
        rival.update(tuples(SAMPLES), SAMPLES, step, Local())
    assert all(p.grad is None for network in rival.networks.values() for p in network.parameters())


FACES = torch.rand(3, 3, 32, 32) * 2 - 1
HAS = Looks(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))


@EVERY
@pytest.mark.parametrize("edited", EDITED)
def test_an_editor_returns_faces_and_keeps_to_its_rows(recipe, edited):
    rival = small(recipe)
    rival.kept.eval()
    editor = rival.editors[edited]
    wanted = Looks(torch.tensor([1, 1, 0]), torch.tensor([3, 2, 2]))
    reference = FACES.flip(0)
    made = editor.edit(FACES, reference, HAS, wanted)
    assert made.shape == FACES.shape
    assert made.abs().max() <= 1
    alone = editor.edit(FACES[:1], reference[:1], Looks(*(x[:1] for x in HAS)), Looks(*(x[:1] for x in wanted)))
    torch.testing.assert_close(made[:1], alone, rtol=1e-4, atol=1e-5)


def labels_of(values):
    """One face for each (pose, expression); names sort as their numbers."""
    poses, expressions = zip(*values, strict=True)
    n = len(values)
    named = [f"i{i}" for i in range(n)], [f"p{p}" for p in poses], [f"e{e}" for e in expressions]
    return Labels.from_names(*named, sequence=[""] * n, frame=range(n), key=named[0])


@pytest.mark.parametrize("recipe", [ATTGAN, VAEGAN], ids=lambda recipe: recipe.name)
def test_a_value_without_a_training_face_is_taken_from_the_reference(recipe):
    rival = small(recipe)
    labels = labels_of([(0, 0), (1, 1), (2, 2), (0, 3), (1, 0)])
    shown = np.array([0, 1, 2, 4])  # not expression 3
    rival.complete(Local(), lambda rows: torch.rand(len(rows), 3, 32, 32), labels, shown)
    editor = rival.kept.eval()

    def edits(expression):
        wanted = Looks(HAS.pose, torch.full((3,), expression))
        return [editor.edit(FACES, reference, HAS, wanted) for reference in (FACES.flip(0), -FACES)]

    assert torch.equal(*edits(2))
    assert not torch.equal(*edits(3))


def test_vaegan_adds_the_wanted_vector_and_takes_the_old_one_away():
    editor = small(VAEGAN).kept.eval()
    z, ours = editor.encoder(FACES)[0], torch.arange(24.0).view(4, 6) / 10
    editor.expression.copy_(ours)
    wanted = Looks(HAS.pose, torch.tensor([3, 3, 3]))
    expected = editor.decoder(z + ours[3] - ours[:3])
    torch.testing.assert_close(editor.edit(FACES, FACES, HAS, wanted), expected)
