"""Everything that decides a result, in one frozen record, and the presets.

What only decides where and how fast a result is made (workers, ZeRO stage, bucket, retries) is not here and never
enters a fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compgan_core.data.shots import ShotsPer
from compgan_core.data.splits import SplitRecipe
from compgan_core.errors import ConfigurationError, did_you_mean
from compgan_core.losses import LAMBDA, MU, Weights
from compgan_core.nets.judge import JudgeNetRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.recognize import FinetuneRecipe
from compgan_core.rivals.attgan import AttGANRecipe
from compgan_core.rivals.cyclegan import CycleGANRecipe
from compgan_core.rivals.pix2pix import Pix2PixRecipe
from compgan_core.rivals.vaegan import VAEGANRecipe
from compgan_core.synthesize import SynthesisRecipe
from compgan_core.training.classifier import ClassifierRecipe, HeadWeights, SteppedRecipe
from compgan_core.training.gan import CompGANRecipe
from compgan_core.training.optim import OptimizerRecipe
from compgan_core.variants import VARIANTS
from compgan_core.views import HeadRecipe


class FacesRecipe(BaseModel):
    """The images that training sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stored_size: int = 144
    """Side of the square images in the tensor cache, in pixels."""
    size: int = 128
    """Side of what the networks see: a random crop in training, the centre in evaluation."""
    max_expressions: int = Field(0, ge=0)
    """Use at most this many expressions, drawn by seed; 0 uses all."""


class JudgeRecipe(BaseModel):
    """The judge, and how many edits it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: JudgeNetRecipe = JudgeNetRecipe()
    training: ClassifierRecipe = ClassifierRecipe()
    edits: int = Field(512, ge=1)


class RivalRecipes(BaseModel):
    """The generators that Comp-GAN is compared with; the defaults are their authors'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attgan: AttGANRecipe = AttGANRecipe()
    cyclegan: CycleGANRecipe = CycleGANRecipe()
    pix2pix: Pix2PixRecipe = Pix2PixRecipe()
    vaegan: VAEGANRecipe = VAEGANRecipe()


class Recipe(BaseModel):
    """A study: one task on one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    preset: str = "paper"
    seed: int = 0
    """Of everything but the draws of the shots."""
    split: SplitRecipe
    shots: int = Field(1, ge=0)
    """Images of each novel category in D_novel; ignored by tasks without novel training images."""
    shots_per: ShotsPer = "category"
    """`category_x_expression`: that many of every expression of each novel category. The paper's one left face in all,
    for ER-FP, shows one expression only, so it may have meant this."""
    draws: int = Field(1, ge=1)
    """How many times the shots are drawn anew; fine-tuning is repeated for each."""
    tunings: int = Field(1, ge=1)
    """How many times fine-tuning is repeated for each draw, from a seed of its own."""
    faces: FacesRecipe = FacesRecipe()
    network: LightCNNRecipe = LightCNNRecipe()
    pretrain: ClassifierRecipe = ClassifierRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()
    lambda_: Weights = Field(LAMBDA, alias="lambda")
    mu: Weights = MU
    compgan: CompGANRecipe = CompGANRecipe()
    synth: SynthesisRecipe = SynthesisRecipe()
    finetune: FinetuneRecipe = FinetuneRecipe()
    head: HeadRecipe = HeadRecipe()
    judge: JudgeRecipe = JudgeRecipe()
    rivals: RivalRecipes = RivalRecipes()
    supervised: SteppedRecipe = SteppedRecipe()
    """Of Sec. 5.1, which no study of the six tasks uses."""
    variants: tuple[str, ...] = ("plain", "degraded", "exp", "compgan")


IDENTITY_ONLY = HeadWeights(expression=0, pose=0, identity=1)
SGD = OptimizerRecipe(name="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, bias_lr_multiplier=2)

# The paper's numbers (Sec. 5.2) where it gives them. What departs from its text, and why:
# - compgan.classifier_scale, .adversarial_scale, .warmup_tuples, .ramp_tuples, .reference_mismatch and D's rate are
#   ours: with all losses at the printed weights from the first step the generators paint noise that fools F_cls.
# - G and D use Adam, whose usual rate 2e-4 is; `compgan.generator_optimizer.name=sgd` is the text to the letter.
# - Pre-training is on the identities of the base training images; the paper's is on CelebA.
PAPER: dict[str, Any] = {
    "preset": "paper",
    "pretrain": {"schedule": {"epochs": 30}, "optimizer": SGD, "heads": IDENTITY_ONLY},
    "classifier": {"optimizer": SGD},
    "finetune": {
        "training": {"optimizer": SGD.model_copy(update={"lr": 0.001}), "schedule": {"epochs": 10}},
    },
    "head": {"optimizer": SGD.model_copy(update={"lr": 0.001}), "schedule": {"epochs": 10}},
    "judge": {
        "training": {"optimizer": {"name": "adam", "lr": 1e-3, "betas": (0.9, 0.999)}, "dropout": 0.2, "degrade": True}
    },
}

_ADAM = OptimizerRecipe(name="adam", lr=2e-3, betas=(0.9, 0.999), max_grad_norm=5)
_HEADS = HeadWeights(expression=1, pose=0.5, identity=0.5)


def _small(size: int, stored: int, width: int, steps: int) -> dict[str, Any]:
    """What `small` and `tiny` share: identity and pose are easy and expression is hard, so it weighs more; Adam, as few
    thousand steps are too few for SGD; two skips, without which small generators do not keep the person; F_cls trained
    on degraded faces and looking through a blur, without which small generators paint stripes (docs/log.md)."""

    def supervised(steps: int, optimizer: OptimizerRecipe = _ADAM, hold: float = 0.6, **more: Any) -> dict[str, Any]:
        schedule = {"steps": steps, "hold": hold}
        return {"schedule": schedule, "optimizer": optimizer, "dropout": 0.2, "heads": _HEADS, **more}

    return {
        "faces": {"size": size, "stored_size": stored, "max_expressions": 16},
        "network": {"channels": (width, 2 * width, 4 * width, 3 * width), "blocks": (1, 1, 1, 1), "feature": 64},
        "pretrain": supervised(steps // 4, heads=IDENTITY_ONLY),
        "classifier": supervised(steps, degrade=True),
        "compgan": {
            "generator": {"width": 24, "downs": 3, "residual_blocks": 1, "skips": 2},
            "discriminator": {"width": 24, "downs": 3, "hidden": 64},
            "schedule": {"steps": steps + steps // 5, "batch": 8, "micro_batch": 8},
            "blur": True,
            "adversarial_scale": 0.005,
            "warmup_tuples": 2 * steps,
            "ramp_tuples": 2 * steps,
            "generator_optimizer": {"name": "adam", "lr": 1e-3},
            "discriminator_optimizer": {"name": "adam", "lr": 1e-4},
            "precision": "bfloat16",
        },
        "synth": {"count": 100, "pool": 100},
        "finetune": {"training": supervised(160, _ADAM.model_copy(update={"lr": 5e-4}))},
        "head": {"schedule": {"steps": 160, "hold": 0.6}, "optimizer": {"name": "adam", "lr": 1e-3}, "dropout": 0.2},
        "judge": {
            "network": {"width": 16, "downs": 3, "feature": 128},
            "training": supervised(steps, degrade=True),
        },
        "rivals": _small_rivals(size, steps + steps // 5),
        "supervised": {"optimizer": _ADAM, "dropout": 0.2},
    }


def _small_rivals(size: int, steps: int) -> dict[str, Any]:
    """As many tuples as Comp-GAN sees, and for AttGAN as many updates of its generator; the generators' rate is
    Comp-GAN's. The last map of each network is as large as its authors', so there are fewer of them."""
    downs = (size // 4).bit_length() - 1
    schedule, adam = {"steps": steps, "batch": 8}, {"name": "adam", "lr": 1e-3}
    return {
        "attgan": {
            "generator": {"width": 24, "downs": downs},
            "discriminator": {"width": 24, "downs": downs, "hidden": 64},
            "schedule": {**schedule, "steps": 6 * steps},
            "optimizer": adam,
        },
        "cyclegan": {
            "generator": {"width": 16, "blocks": 3},
            "discriminator": {"width": 24, "layers": 2},
            "schedule": schedule,
            "optimizer": adam,
        },
        "pix2pix": {
            "generator": {"width": 24, "downs": downs + 2, "dropouts": 1},
            "discriminator": {"width": 24, "layers": 2},
            "schedule": schedule,
            "optimizer": adam,
        },
        "vaegan": {
            "network": {"width": 24, "latent": 128},
            "schedule": {**schedule, "epochs": 3},  # falling twenty times, it stops after the first few hundred steps
            "optimizer": {"name": "rmsprop", "lr": 1e-3},
            "gamma": 1e-3,  # with few features and steps, 1e-6 leaves the decoder nothing but the GAN (docs/log.md)
        },
    }


# How the paper divided its own 219,719 faces: 21 of 119 identities novel, no validation role. Elsewhere, shares fit.
F2ED_SPLIT = {"novel_ids": 21, "novel_expressions": 11, "validation_fraction": 0}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "f2ed": {**PAPER, "preset": "f2ed", "split": F2ED_SPLIT},
    "small": {"preset": "small", **_small(size=64, stored=72, width=12, steps=4000)},
    "tiny": {"preset": "tiny", **_small(size=32, stored=36, width=12, steps=1000)},
}


def make_recipe(
    preset: str, task: str, shots: int | None = None, seed: int = 0, overrides: Mapping[str, str] | None = None
) -> Recipe:
    """A preset, a task, and `key=value` overrides with dotted keys, as in `compgan.schedule.steps=500`.

    Values are JSON, or plain text where they are not. Raises ConfigurationError for an unknown preset, key or variant
    and for a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigurationError(f"no preset {preset!r}; {did_you_mean(preset, list(PRESETS))}")
    split = {**PRESETS[preset].get("split", {}), "task": task, "seed": seed}
    values: dict[str, Any] = {**PRESETS[preset], "seed": seed, "split": split}
    if shots is not None:
        values["shots"] = shots
    values = _validated(values).model_dump(mode="json", by_alias=True)
    for key, text in (overrides or {}).items():
        _set(values, key, text)
    recipe = _validated(values)
    for variant in recipe.variants:
        if variant not in VARIANTS:
            raise ConfigurationError(f"no variant {variant!r}; {did_you_mean(variant, list(VARIANTS))}")
    return recipe


def _validated(values: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigurationError):
            raise cause from error
        raise ConfigurationError(f"{where}={first['input']!r}: {first['msg']}") from error


def _set(values: dict[str, Any], key: str, text: str) -> None:
    """Set a dotted key to a JSON value or to plain text."""
    *path, last = key.split(".")
    node: Any = values
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise ConfigurationError(f"the recipe has no key {key!r}; {did_you_mean(key, sorted(_keys(values)))}")
    try:
        node[last] = json.loads(text)
    except json.JSONDecodeError:
        node[last] = text


def _keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key that can be set."""
    keys = []
    for name, value in values.items():
        keys.append(prefix + name)
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{name}.")
    return keys
