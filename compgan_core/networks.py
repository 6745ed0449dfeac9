"""The networks of a study: built for a data set, their first weights drawn by seed, or loaded from a stage's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from compgan_core.compgan import CompGAN
from compgan_core.data.labels import Labels
from compgan_core.editors import ByReference, Editors
from compgan_core.nets.attention import AttentionCNN, AttentionCNNRecipe
from compgan_core.nets.classifier import AttributeClassifier, FaceClassifier
from compgan_core.nets.gan import Discriminator, DiscriminatorRecipe, Generator, GeneratorRecipe, init_gan
from compgan_core.nets.judge import Judge, JudgeNetRecipe
from compgan_core.nets.lightcnn import LightCNN, LightCNNRecipe, load_public_checkpoint
from compgan_core.randomness import seeded
from compgan_core.rivals import RivalRecipe, make_rival
from compgan_core.rivals.base import Domain
from compgan_core.training.runtime import load_state, save_state

Network = TypeVar("Network", bound=nn.Module)


def face_classifier(recipe: LightCNNRecipe, size: int, labels: Labels, seed: int) -> FaceClassifier:
    """F_cls for the vocabularies of `labels`, before any training."""
    with seeded(seed, "init classifier"):
        return FaceClassifier(recipe, size, *_classes(labels))


def supervised(
    recipe: LightCNNRecipe | AttentionCNNRecipe, size: int, labels: Labels, seed: int
) -> FaceClassifier | AttentionCNN:
    """A network of Sec. 5.1, before any training."""
    if isinstance(recipe, LightCNNRecipe):
        model = face_classifier(recipe, size, labels, seed)
        with seeded(seed, "init from scratch"):
            model.trunk.preserve_variance()
        return model
    with seeded(seed, "init attention"):
        return AttentionCNN(recipe, *_classes(labels))


def attribute_classifier(recipe: LightCNNRecipe, size: int, attributes: int, seed: int) -> AttributeClassifier:
    """Of so many binary attributes, before any training."""
    with seeded(seed, "init classifier"):
        model = AttributeClassifier(recipe, size, attributes)
        model.trunk.preserve_variance()
        return model


def take_trunk(model: nn.Module, path: Path) -> None:
    """Give a classifier the trunk of one that was trained before, on whatever labels; its heads stay."""
    weights, _ = load_state(path)
    trunk = {name.removeprefix("trunk."): t for name, t in weights.items() if name.startswith("trunk.")}
    model.get_submodule("trunk").load_state_dict(trunk)


def public_trunk(checkpoint: Path, recipe: LightCNNRecipe, size: int, path: Path) -> None:
    """Write the trunk of the authors' public checkpoint as `take_trunk` reads it. Raises DataError: another shape."""
    trunk = LightCNN(recipe, size)
    load_public_checkpoint(trunk, checkpoint)
    save_state(path, {f"trunk.{name}": tensor for name, tensor in trunk.state_dict().items()})


def face_judge(recipe: JudgeNetRecipe, size: int, labels: Labels, seed: int) -> Judge:
    """The judge, likewise."""
    with seeded(seed, "init judge"):
        return Judge(recipe, size, *_classes(labels))


def comp_gan(recipe: GeneratorRecipe, seed: int) -> CompGAN:
    """Both generators."""
    with seeded(seed, "init generators"):
        pose = Generator(recipe)
        gan = CompGAN(pose, pose if recipe.shared else Generator(recipe))
        init_gan(gan)
    return gan


def discriminator(recipe: DiscriminatorRecipe, size: int, seed: int) -> Discriminator:
    """D."""
    with seeded(seed, "init discriminator"):
        network = Discriminator(recipe, size)
        init_gan(network)
    return network


def load(network: Network, path: Path, device: torch.device) -> Network:
    """The network with the weights of a file, frozen, on the device."""
    weights, _ = load_state(path)
    network.load_state_dict(weights)
    return network.to(device).requires_grad_(False).eval()


def load_classifier(
    directory: Path, recipe: LightCNNRecipe, size: int, labels: Labels, device: torch.device
) -> FaceClassifier:
    """F_cls as the stage `classifier` or `finetune` left it in `directory`."""
    return load(face_classifier(recipe, size, labels, 0), directory / "classifier.safetensors", device)


def load_judge(directory: Path, recipe: JudgeNetRecipe, size: int, labels: Labels, device: torch.device) -> Judge:
    """The judge as its stage left it in `directory`."""
    return load(face_judge(recipe, size, labels, 0), directory / "judge.safetensors", device)


def load_gan(directory: Path, recipe: GeneratorRecipe, device: torch.device) -> CompGAN:
    """Both generators as the stage `compgan` left them in `directory`."""
    gan = comp_gan(recipe, 0)
    load(gan.pose, directory / "pose.safetensors", device)
    load(gan.exp, directory / "exp.safetensors", device)
    return gan


def load_editors(
    inputs: Mapping[str, Path],
    generator: GeneratorRecipe | RivalRecipe,
    size: int,
    labels: Labels,
    device: torch.device,
) -> Editors:
    """What edits pose and expression: Comp-GAN, or a rival as its stage left it. Input: compgan or rival."""
    if isinstance(generator, GeneratorRecipe):
        gan = load_gan(inputs["compgan"], generator, device)
        return {"pose": ByReference(gan.pose), "exp": ByReference(gan.exp)}
    rival = make_rival(generator, Domain.of(labels, size), 0)
    load(rival.kept, inputs["rival"] / "kept.safetensors", device)
    return rival.editors


def _classes(labels: Labels) -> tuple[int, int, int]:
    """Of each head; one, which nothing trains, for what the data set does not know."""
    return max(1, len(labels.expressions)), max(1, len(labels.poses)), max(1, len(labels.identities))
