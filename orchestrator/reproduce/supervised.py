"""Section 5.1: Comp-GAN-Cls from scratch and pre-trained, and competitors, as one more kind of study."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from compgan_core.baselines import BaselineRecipe
from compgan_core.data.supervised import SupervisedRecipe, supervised_recipe
from compgan_core.errors import ConfigurationError
from compgan_core.nets.attention import AttentionCNNRecipe
from compgan_core.networks import public_trunk
from compgan_core.recipe import Recipe, make_recipe
from compgan_core.training.classifier import HeadWeights, SteppedRecipe
from compgan_core.training.optim import OptimizerRecipe
from orchestrator.artifacts.artifacts import Artifacts, sha256_of
from orchestrator.datasets import Dataset
from orchestrator.ingest import FACES, faces_recipe
from orchestrator.study import Stage, Study

ROWS = {
    "fisherface": "Fisherface",
    "words": "Bag of visual words + SVM",
    "features": "CNN feature + SVM",
    "attention": "Attentional CNN",
    "scratch": "Comp-GAN-Cls, from scratch",
    "pretrained": "Comp-GAN-Cls, pre-trained",
}
SPLITS = {"fer2013": "partition", "jaffe": "jaffe", "celeba": "celeba"}
"""By the format of a data set; others are split as the paper's own."""
SETTINGS = {"fer2013": (2e-3, 64), "jaffe": (5e-4, 32)}
"""Rate and batch (Sec. 5.1); other data sets have those of the recipe."""
ATTRIBUTES_TEST = 0.1
"""Share of the faces that say how well attributes were learnt."""
ADAM = OptimizerRecipe(name="adam", lr=1e-3, betas=(0.9, 0.999))
LIGHTCNN = "lightcnn"


class Pretrained(NamedTuple):
    """What a network starts from."""

    stage: Stage
    of: str
    """For a reader: a data set, or a file."""


@dataclass(frozen=True)
class SupervisedStudy(Study):
    """All rows of Tables 2 and 3 on one data set, for one seed."""

    pretrained: Pretrained | None = None
    competitors: bool = True
    """Not needed where the data set only serves to pre-train."""
    attributes: bool = False
    """Train on the binary attributes of the faces, and on nothing else."""

    @cached_property
    def faces(self) -> Stage:
        """The tensor cache, with attributes where they are needed."""
        if not self.attributes:
            return super().faces
        recipe = faces_recipe(self.recipe.faces.stored_size, (), attributes=True)
        return Stage(FACES, recipe, {"dataset": self.dataset})

    @cached_property
    def split(self) -> SupervisedRecipe:
        return supervised_recipe(SPLITS.get(self.dataset.manifest.format, "f2ed"), self.recipe.seed)

    @cached_property
    def training(self) -> SteppedRecipe:
        """With the rate and the batch of the paper, unless others were asked for."""
        made, (lr, batch) = self.recipe.supervised, SETTINGS.get(self.dataset.manifest.format, (None, None))
        if lr and made.optimizer == SteppedRecipe().optimizer:
            made = made.model_copy(update={"optimizer": made.optimizer.model_copy(update={"lr": lr})})
        if batch and made.schedule.batch == SteppedRecipe().schedule.batch:
            made = made.model_copy(update={"schedule": made.schedule.model_copy(update={"batch": batch})})
        heads = HeadWeights(expression=0, pose=0, identity=0).model_copy(update={self.split.of: 1.0})
        return made.model_copy(update={"heads": heads})

    @cached_property
    def rows(self) -> dict[str, Stage]:
        """Row -> the stage that gives its number."""
        r, seed, data = self.recipe, self.recipe.seed, {"faces": self.faces}
        if self.attributes:
            arguments = {"network": r.network, "size": r.faces.size, "test": ATTRIBUTES_TEST, "seed": seed}
            return {"scratch": Stage("attributes", {**arguments, "training": self.training}, data, f"scratch #{seed}")}
        common = {"size": r.faces.size, "split": self.split, "seed": seed}
        network = {**common, "network": r.network}
        scratch = Stage("supervised", {**network, "training": self.training}, data, f"scratch #{seed}")
        made = {"scratch": scratch}
        if self.pretrained:
            inputs = {**data, "pretrained": self.pretrained.stage}
            made["pretrained"] = Stage(
                "supervised", {**network, "training": self.training}, inputs, f"pretrained #{seed}"
            )
        if self.competitors:
            attention = self.training.model_copy(update={"optimizer": ADAM})
            arguments = {**common, "network": AttentionCNNRecipe(), "training": attention}
            made["attention"] = Stage("supervised", arguments, data, f"attention #{seed}")
            for method in ("fisherface", "words", "features"):
                by_network = method == "features"
                source = self.pretrained.stage if self.pretrained else scratch
                made[method] = Stage(
                    "baseline",
                    {**common, "baseline": BaselineRecipe(method=method), "network": r.network if by_network else None},
                    {**data, "pretrained": source} if by_network else data,
                    f"{method} #{seed}",
                )
        return {name: made[name] for name in ROWS if name in made}

    @cached_property
    def alike(self) -> Stage:
        """What Fig. 3 is drawn of."""
        arguments = {"network": self.recipe.network, "size": self.recipe.faces.size}
        return Stage(
            "alike", arguments, {"faces": self.faces, "classifier": self.rows["scratch"]}, f"#{self.recipe.seed}"
        )

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Each after its inputs, those of the pre-training too."""
        found: dict[str, Stage] = {}

        def add(stage: Stage) -> None:
            for needed in stage.stage_inputs():
                add(needed)
            found.setdefault(stage.fingerprint, stage)

        for name in sorted(self.rows, key=lambda name: name != "scratch"):
            add(self.rows[name])
        if self.competitors:
            add(self.alike)
        return tuple(found.values())

    @property
    def titles(self) -> dict[str, str]:
        return {name: ROWS[name] for name in self.rows}

    @property
    def description(self) -> str:
        return f"supervised on {self.dataset.manifest.name}, preset {self.recipe.preset}, seed {self.recipe.seed}"


def public_lightcnn(artifacts: Artifacts, path: Path, preset: str, overrides: Mapping[str, str]) -> Pretrained:
    """The authors' checkpoint as the record of a stage. Raises ConfigurationError: there is no such file;
    DataError: it is not of this shape."""
    if not path.is_file():
        raise ConfigurationError(f"{path} is neither a data set of this store nor a file: see orch data ls")
    recipe = make_recipe(preset, "ER-SS", overrides=overrides)
    network, size = recipe.network, recipe.faces.size
    stage = Stage(LIGHTCNN, {"sha256": sha256_of(path), "network": network, "size": size}, {}, path.name)
    if artifacts.record(stage.kind, stage.fingerprint) is None:
        with tempfile.TemporaryDirectory(prefix="compgan-") as scratch:
            public_trunk(path, network, size, Path(scratch) / "classifier.safetensors")
            artifacts.publish(
                stage.kind, stage.fingerprint, Path(scratch), recipe=stage.recipe, inputs={}, metrics={}, seconds=0.0
            )
    return Pretrained(stage, path.name)


def supervised_studies(
    recipes: Mapping[int, Recipe],
    dataset: Dataset,
    others: Mapping[str, Dataset],
    before: Dataset | Pretrained | None,
    attributes: bool = False,
) -> dict[str, SupervisedStudy]:
    """Of each seed: on the data set itself, and on FER2013 and JAFFE if they are among `others`, pre-trained on it.

    recipes: by seed. others: by format. before: what the data set's own run is pre-trained on; attributes:
    on the binary attributes of its faces.
    """
    found = {}
    for seed, recipe in recipes.items():
        start = before if isinstance(before, Pretrained) else None
        if isinstance(before, Dataset):
            first = SupervisedStudy(recipe, before, competitors=False, attributes=attributes)
            found[f"pre-training on {before.manifest.name}, seed {seed}"] = first
            start = Pretrained(first.rows["scratch"], before.manifest.name)
        own = SupervisedStudy(recipe, dataset, pretrained=start)
        found[f"supervised on {dataset.manifest.name}, seed {seed}"] = own
        for other in others.values():
            on_own = Pretrained(own.rows["scratch"], dataset.manifest.name)
            study = replace(own, dataset=other, pretrained=on_own)
            found[f"supervised on {other.manifest.name}, seed {seed}"] = study
    return found
