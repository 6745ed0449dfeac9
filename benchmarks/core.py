"""The core alone: no Ray, no DeepSpeed."""

from __future__ import annotations

import torch

from benchmarks.timing import Figure, figure, in_turn
from compgan_core import losses
from compgan_core.compgan import CompGAN, Tuples, discriminator_gradients, generator_terms
from compgan_core.losses import LAMBDA, MU
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import Discriminator, Generator
from compgan_core.nets.lightcnn import LightCNN
from compgan_core.recipe import Recipe, make_recipe
from compgan_core.training.gan import compgan_update
from compgan_core.training.runtime import trainable

TUPLES = {"paper": 2, "tiny": 8}


def step(device: torch.device, repeats: int) -> list[Figure]:
    """One Comp-GAN update (three gradients, no optimizer) against two whole backward passes on the same graph."""
    figures = []
    for preset, tuples in TUPLES.items():
        recipe = make_recipe(preset, "ER-FE", overrides={"compgan.precision": "float32"})
        gan, discriminator, classifier, batch = world(recipe, tuples, device)
        exact = recipe.compgan, recipe.lambda_, recipe.mu

        def ours(g=gan, d=discriminator, c=classifier, b=batch, e=exact) -> None:
            compgan_update(g, d, c, b, *e, ramp=1.0)

        def naive(g=gan, d=discriminator, c=classifier, b=batch, r=recipe.compgan) -> None:
            naive_update(g, d, c, b, r.classifier_scale, r.adversarial_scale)

        seconds = in_turn({"ours": ours, "naive": naive}, repeats, device)
        ratios = [n / o for n, o in zip(seconds["naive"], seconds["ours"], strict=True)]
        figures += [
            figure(f"Comp-GAN step, {preset}, float32, {tuples} tuples", "s", seconds["ours"]),
            figure(f"Comp-GAN step, {preset}, naive / ours", "times", ratios),
        ]
    return figures


def naive_update(
    gan: CompGAN, discriminator: Discriminator, classifier: FaceClassifier, batch: Tuples, cls: float, adv: float
) -> None:
    """What one would write first: a whole backward of each weighted sum, keeping of each the gradients it is for."""
    fakes = gan(batch.reals[0], batch.references)
    terms = generator_terms(fakes, batch, classifier, discriminator)
    everything = [*trainable(gan), *trainable(discriminator)]
    for weights, last in ((LAMBDA, False), (MU, True)):
        loss = losses.weighted_sum(terms, weights, cls, adv)
        torch.autograd.grad(loss, everything, retain_graph=not last)
    discriminator_gradients(fakes, batch, discriminator)


def lightcnn(device: torch.device, repeats: int) -> list[Figure]:
    """Forward and backward of LightCNN-29v2, float32."""
    net, images = LightCNN(num_classes=54).to(device), 16
    x = torch.rand(images, 1, 128, 128, device=device)

    def work() -> None:
        torch.autograd.grad(net(x)[0].square().mean(), trainable(net))

    seconds = in_turn({"both": work}, repeats, device)["both"]
    rates = [images / s for s in seconds]
    return [figure("LightCNN-29v2 forward + backward, 128 x 128, float32", "images/s", rates)]


def world(recipe: Recipe, tuples: int, device: torch.device) -> tuple[CompGAN, Discriminator, FaceClassifier, Tuples]:
    """Untrained networks of a recipe and a batch of noise."""
    size = recipe.faces.size
    gan = CompGAN(Generator(recipe.compgan.generator), Generator(recipe.compgan.generator)).to(device)
    discriminator = Discriminator(recipe.compgan.discriminator, size).to(device)
    classifier = FaceClassifier(recipe.network, size, 54, 4, 119).to(device).requires_grad_(False)
    noise = torch.rand(12, tuples, 3, size, size, device=device) * 2 - 1
    labels = torch.zeros(2, tuples, dtype=torch.int64, device=device)
    return gan, discriminator, classifier, Tuples(noise[:4], noise[4:], labels, labels, labels[0])
