"""Shapes and parameter counts of the rivals' networks, against their authors' code."""

import pytest
import torch

from compgan_core.nets.gan import DiscriminatorRecipe
from compgan_core.rivals.attgan import AttGANDiscriminator, AttGANGenerator, AttGANGeneratorRecipe
from compgan_core.rivals.cyclegan import ResNet, ResNetRecipe
from compgan_core.rivals.layers import PatchGAN, PatchGANRecipe
from compgan_core.rivals.pix2pix import UNet, UNetRecipe
from compgan_core.rivals.vaegan import Decoder, Encoder, VAEGANDiscriminator, VAEGANNetRecipe


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("injections", "expected"), [(0, 43_352_707), (1, 43_459_203)])
def test_attgans_generator_is_the_authors(injections, expected):
    assert count(AttGANGenerator(AttGANGeneratorRecipe(injections=injections), 13)) == expected


def test_attgans_discriminator_is_the_authors():
    assert count(AttGANDiscriminator(DiscriminatorRecipe(), 128, 13)) == 44_718_990


@pytest.mark.parametrize(("blocks", "expected"), [(9, 11_378_179), (6, 7_837_699)])
def test_cyclegans_generator_is_the_authors(blocks, expected):
    assert count(ResNet(ResNetRecipe(blocks=blocks), channels=3)) == expected


@pytest.mark.parametrize(("downs", "expected"), [(8, 54_413_955), (7, 41_828_995)])
def test_pix2pixs_generator_is_the_authors(downs, expected):
    assert count(UNet(UNetRecipe(downs=downs), channels=3)) == expected


def test_the_patch_discriminator_is_the_authors():
    assert count(PatchGAN(PatchGANRecipe(), 3, "instance")) == 2_764_737
    assert count(PatchGAN(PatchGANRecipe(), 6, "batch")) == 2_768_705


def test_a_patch_is_70_pixels_wide():
    net = PatchGAN(PatchGANRecipe(width=4), 3, "batch").eval()  # an instance norm would let all pixels matter
    for pixels, patches in ((256, 30), (128, 14)):
        x = torch.randn(1, 3, pixels, pixels, requires_grad=True)
        y = net(x)
        assert y.shape == (1, 1, patches, patches)
    (slope,) = torch.autograd.grad(y[0, 0, 7, 7], x)
    seen = slope[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


@pytest.mark.parametrize("size", [32, 64, 128])
def test_vaegan_keeps_its_bottleneck_of_8_pixels_at_every_size(size):
    recipe = VAEGANNetRecipe(width=4, latent=6)
    faces = torch.rand(2, 3, size, size)
    mean, log_variance = Encoder(recipe, size)(faces)
    assert mean.shape == log_variance.shape == (2, 6)
    assert Decoder(recipe, size)(mean).shape == faces.shape
    logits, features = VAEGANDiscriminator(recipe, size)(faces)
    assert logits.shape == (2,)
    assert features.shape[2:] == (8, 8)


def test_vaegans_networks_at_64_pixels_are_the_authors():
    """Layer by layer: convolutions of 5 x 5 without bias before a norm, whose scale and shift are two a channel."""
    recipe = VAEGANNetRecipe()

    def conv(a, b):
        return 25 * a * b + 2 * b

    fc = 8 * 8 * 256
    encoder = conv(3, 64) + conv(64, 128) + conv(128, 256) + fc * 1024 + 2 * 1024 + 2 * (1024 * 128 + 128)
    assert count(Encoder(recipe, 64)) == encoder
    decoder = 128 * fc + 2 * fc + conv(256, 256) + conv(256, 128) + conv(128, 32) + 25 * 32 * 3 + 3
    assert count(Decoder(recipe, 64)) == decoder
    trunk = 25 * 3 * 32 + 32 + conv(32, 128) + conv(128, 256) + conv(256, 256)
    assert count(VAEGANDiscriminator(recipe, 64)) == trunk + fc * 512 + 2 * 512 + 512 + 1
