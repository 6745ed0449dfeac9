"""Section 5.1: the schedule, the small attentional CNN, classical baselines, and pre-trained trunks."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from compgan_core import baselines, networks, stages
from compgan_core.baselines import BaselineRecipe
from compgan_core.data.cache import decode_part, finish_cache
from compgan_core.data.face import Face
from compgan_core.data.labels import Labels
from compgan_core.errors import DataError
from compgan_core.nets.attention import AttentionCNN, AttentionCNNRecipe
from compgan_core.nets.classifier import gray
from compgan_core.nets.lightcnn import LightCNN, LightCNNRecipe
from compgan_core.training.classifier import Attributed, SteppedRecipe, attribute_update
from compgan_core.training.runtime import Local

SMALL = LightCNNRecipe(channels=(4, 6, 8, 6), blocks=(1, 0, 1, 0), feature=10)


def labels(expressions=("calm", "joy"), identities=("",)):
    n = len(expressions)
    return Labels.from_names([identities[0]] * n, [""] * n, expressions, [""] * n, [0] * n, [str(i) for i in range(n)])


def test_the_rate_falls_by_0457_every_ten_epochs_to_a_fiftieth_after_fifty():
    schedule = SteppedRecipe().schedule
    assert (schedule.epochs, schedule.batch, SteppedRecipe().optimizer.lr) == (50, 128, 0.01)
    factors = [schedule.factor(epoch, 50) for epoch in range(50)]
    assert factors == pytest.approx([0.457305051927326 ** (epoch // 10) for epoch in range(50)])
    assert schedule.decay**5 == pytest.approx(0.02)


@pytest.mark.parametrize("recipe", [LightCNNRecipe(), SMALL])
def test_a_network_that_starts_from_scratch_tells_faces_apart(recipe):
    patches = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (16, 3, 4, 4))).float()
    pictures = torch.nn.functional.interpolate(patches, size=32, mode="bilinear")
    networks_made = networks.supervised(recipe, 32, labels(), 0), networks.attribute_classifier(recipe, 32, 3, 0)
    for made in networks_made:
        last = made.trunk.maps(gray(pictures))[-1]
        assert 0.3 < made.trunk.feature(last).std(0).mean() < 10
    attention = networks.supervised(AttentionCNNRecipe(), 32, labels(), 0)
    assert 0.05 < attention.features(pictures).std(0).mean() < 10
    assert networks.face_classifier(recipe, 32, labels(), 0).features(pictures).std(0).mean() < 0.05


def faces(shift=0.0, n=30, side=24):
    """Two classes: a bright left or a bright upper half, in noise; (n, side, side) in [0, 1]."""
    rng = np.random.default_rng(int(100 * shift) + n)
    y = np.arange(n) % 2
    x = 0.3 * rng.random((n, side, side)) + shift
    x[y == 0, :, : side // 2] += 0.5
    x[y == 1, : side // 2] += 0.5
    return x.astype(np.float32), y


@pytest.mark.parametrize("method", ["fisherface", "words", "features"])
def test_a_classical_baseline_reads_what_it_was_fitted_on_and_faces_that_it_never_saw(method):
    recipe = BaselineRecipe(method=method, side=24, words=16, sampled=500)
    (x, y), (seen, truth) = faces(), faces(shift=0.05, n=40)
    if method == "features":
        x, seen = (a.reshape(len(a), -1) for a in (x, seen))
    fitted = baselines.fit(recipe, x, y, seed=0)
    assert (baselines.read(fitted, recipe, seen) == truth).mean() > 0.9
    again = baselines.fit(recipe, x, y, seed=0)
    assert (baselines.read(again, recipe, seen) == baselines.read(fitted, recipe, seen)).all()


def test_a_word_is_known_by_the_cell_it_stands_in():
    recipe = BaselineRecipe(method="words", side=24, words=4, cells=3, sampled=500)
    x, y = faces()
    words = baselines.Words(recipe, 0).fit(x, y)
    shares = np.square(words.transform(x))
    assert shares.shape == (30, 9 * 4)
    windows = (24 - recipe.patch) // (recipe.patch // 2) + 1
    assert shares.sum(1) == pytest.approx(windows**2)
    assert (shares.reshape(30, 9, 4).sum(2) > 0).all()


def test_the_attentional_cnn_first_looks_at_the_whole_face_and_can_look_elsewhere():
    torch.manual_seed(0)
    net = AttentionCNN(AttentionCNNRecipe(), 7, 1, 1)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    before = net.features(x)
    assert net(x).expression.shape == (2, 7) and before.shape == (2, 50)
    with torch.no_grad():
        net.where[-1].bias.copy_(torch.tensor([0.5, 0, 0, 0, 0.5, 0]))
    assert not torch.equal(net.features(x), before)
    gradient = torch.autograd.grad(net(x).expression.sum(), list(net.where.parameters()))
    assert any(g.abs().sum() > 0 for g in gradient)


def test_a_trunk_is_taken_over_from_a_network_with_other_heads_and_from_the_public_checkpoint(tmp_path):
    public = LightCNN(SMALL, 32, num_classes=11)
    torch.save({"state_dict": {f"module.{k}": t for k, t in public.state_dict().items()}}, tmp_path / "public.tar")
    networks.public_trunk(tmp_path / "public.tar", SMALL, 32, tmp_path / "classifier.safetensors")
    model = networks.supervised(SMALL, 32, labels(), seed=3)
    head = model.expression.weight.clone()
    networks.take_trunk(model, tmp_path / "classifier.safetensors")
    assert torch.equal(model.trunk.fc.weight, public.fc.weight)
    assert torch.equal(model.expression.weight, head)


def shaded(path, n=64, side=16):
    """A cache of faces whose two attributes can be seen, and one face more of which nothing is known."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n + 1):
        true = tuple(name for bit, name in enumerate(("Top", "Left", "Face")) if (i % 4 | 4) >> bit & 1)
        x = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
        x[: side // 2] += np.uint8(90 * ("Top" in true))
        x[:, : side // 2] += np.uint8(90 * ("Left" in true))
        file = io.BytesIO()
        Image.fromarray(x).save(file, "PNG")
        made.append(Face(f"{i:03d}", "", "", "", "", 0, file.getvalue(), "", true if i < n else ()))
    path.mkdir()
    part = decode_part(made, n + 1, side, path / "part.arrow", attributes=True)
    finish_cache(path, side, [part])
    return path


def test_a_trunk_learns_from_binary_attributes_of_faces_that_say_any(tmp_path):
    recipe = SteppedRecipe(
        schedule={"steps": 120, "batch": 16}, optimizer={"name": "adam", "lr": 3e-3, "betas": (0.9, 0.999)}, dropout=0
    )
    (out := tmp_path / "out").mkdir()
    found = stages.attributes(
        {"faces": shaded(tmp_path / "faces")}, out, Local(), network=SMALL, size=16, test=0.25, training=recipe, seed=0
    )
    assert found["images"] == 16 and found["of_the_commoner"] < 75 and found["accuracy"] > 95
    assert json.loads((out / "attributes.json").read_text()).keys() == {"Face", "Left", "Top"}
    model = networks.supervised(SMALL, 16, labels(), seed=3)
    networks.take_trunk(model, out / "classifier.safetensors")


def test_the_loss_of_attributes_is_their_mean_cross_entropy():
    model = networks.attribute_classifier(SMALL, 16, 3, seed=0)
    batch = Attributed(torch.rand(4, 3, 16, 16) * 2 - 1, torch.tensor([[0.0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]))
    update = attribute_update(model, batch, torch.arange(4), SteppedRecipe(dropout=0), 0)
    chances = torch.where(batch.attributes > 0, model(batch.faces).sigmoid(), 1 - model(batch.faces).sigmoid())
    assert update.metrics["attributes"] == pytest.approx(-chances.log().mean().item(), rel=1e-5)
    gradient = torch.autograd.grad(-chances.log().mean(), list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(update.gradients["classifier"], gradient, strict=True))


def test_a_data_set_without_attributes_is_refused(tmp_path):
    path = tmp_path / "faces"
    path.mkdir()
    face = Face("a", "", "", "", "", 0, b"")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    finish_cache(
        path, 16, [decode_part([replace(face, image_bytes=file.getvalue())], 1, 16, path / "p", attributes=True)]
    )
    with pytest.raises(DataError, match="that have some, and 0 have"):
        stages.attributes(
            {"faces": path}, tmp_path, Local(), network=SMALL, size=16, test=0.1, training=SteppedRecipe(), seed=0
        )


def test_a_data_set_that_knows_neither_poses_nor_identities_gets_heads_of_one():
    model = networks.supervised(SMALL, 32, labels(), seed=0)
    assert (model.expression.out_features, model.pose.out_features, model.identity.out_features) == (2, 1, 1)
