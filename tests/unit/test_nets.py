"""Shapes and parameter counts of the networks, against the published ones."""

import pytest
import torch

from compgan_core.errors import DataError
from compgan_core.nets.classifier import FaceClassifier, gray
from compgan_core.nets.gan import Discriminator, DiscriminatorRecipe, Generator, GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNN, LightCNNRecipe, load_public_checkpoint

SMALL = LightCNNRecipe(channels=(4, 6, 8, 6), blocks=(1, 0, 1, 0), feature=10)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_lightcnn_29v2_has_the_published_number_of_parameters_and_tensors():
    assert count(LightCNN()) == 10_475_872
    assert len(LightCNN(num_classes=80_013).state_dict()) == 61
    assert count(LightCNN(num_classes=54)) == 10_489_696


def test_lightcnn_29v2_has_29_convolutions():
    assert sum(isinstance(m, torch.nn.Conv2d) for m in LightCNN().modules()) == 29


def test_the_four_pooled_maps_have_the_shapes_of_the_layer_table():
    maps = LightCNN().eval().maps(torch.rand(1, 1, 128, 128))
    assert [tuple(m.shape[1:]) for m in maps] == [(48, 64, 64), (96, 32, 32), (192, 16, 16), (128, 8, 8)]


def test_the_feature_is_taken_before_dropout():
    net = LightCNN(SMALL, 32, num_classes=3)
    x, mask = torch.rand(2, 1, 32, 32), torch.zeros(2, 10)
    dropped, feature = net(x, mask)
    assert torch.equal(feature, net(x)[1])
    assert torch.equal(dropped, torch.zeros(2, 3))


def public_file(path, **changes):
    weights = {f"module.{name}": t for name, t in LightCNN(num_classes=11).state_dict().items()} | changes
    torch.save({"epoch": 80, "arch": "LightCNN", "state_dict": weights, "prec1": 99.0}, path)
    return weights


def test_the_authors_checkpoint_loads_strictly_without_its_last_layer(tmp_path):
    weights = public_file(tmp_path / "public.pth.tar")
    trunk = LightCNN()
    load_public_checkpoint(trunk, tmp_path / "public.pth.tar")
    assert torch.equal(trunk.group3.conv_a.filter.bias, weights["module.group3.conv_a.filter.bias"])


def test_a_checkpoint_with_a_stray_tensor_is_refused(tmp_path):
    public_file(tmp_path / "public.pth.tar", **{"module.stray": torch.zeros(1)})
    with pytest.raises(DataError, match="stray"):
        load_public_checkpoint(LightCNN(), tmp_path / "public.pth.tar")


def test_the_discriminator_is_attgans_with_one_head():
    assert count(Discriminator(DiscriminatorRecipe(), 128)) == 27_927_425


@pytest.mark.parametrize("skips", [0, 1, 2])
def test_a_generator_returns_a_face_of_the_size_it_was_given(skips):
    generator = Generator(GeneratorRecipe(width=4, downs=3, residual_blocks=1, skips=skips))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    made = generator(x, x.flip(0))
    assert made.shape == x.shape
    assert made.abs().max() <= 1


def test_the_source_does_not_reach_the_output_around_the_bottleneck_without_skips():
    generator = Generator(GeneratorRecipe(width=4, downs=3, skips=0))
    calls = []
    generator.decoder[0].register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    x = torch.rand(1, 3, 32, 32)
    generator(x, x)
    assert calls == [(1, 16, 4, 4)]


def test_gray_is_the_luma_of_the_picture_in_0_1():
    white, red = torch.ones(1, 3, 2, 2), torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert torch.allclose(gray(white), torch.ones(1, 1, 2, 2))
    assert torch.allclose(gray(red), torch.full((1, 1, 2, 2), 0.299))


def test_the_three_heads_have_a_column_for_each_category():
    net = FaceClassifier(SMALL, 32, expressions=5, poses=4, identities=7)
    logits = net(torch.rand(2, 3, 32, 32))
    assert [x.shape[1] for x in (logits.expression, logits.pose, logits.identity)] == [5, 4, 7]
