"""The split that a study of a dataset would make, or a supervised one, with its counts and its proof."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from compgan_core.data.labels import choose_expressions
from compgan_core.data.proof import Proof, prove_split, prove_supervised
from compgan_core.data.shots import shots
from compgan_core.data.splits import FEW_SHOT_TASKS, SplitRecipe, make_split
from compgan_core.data.supervised import SupervisedRecipe, make_supervised_split, supervised_recipe
from compgan_core.recipe import make_recipe
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.datasets import Dataset


class TaskReport(BaseModel, frozen=True):
    """A split of one of the six tasks."""

    recipe: SplitRecipe
    shots: int
    shots_per: str
    draw: int
    proof: Proof


class SupervisedReport(BaseModel, frozen=True):
    """A supervised split."""

    recipe: SupervisedRecipe
    proof: Proof


def report_task(
    artifacts: Artifacts,
    dataset: Dataset,
    preset: str,
    task: str,
    k: int,
    seed: int,
    draw: int,
    overrides: Mapping[str, str],
) -> TaskReport:
    """Draw and prove the split and the shots of the study with these options; nothing is stored.

    Raises ConfigurationError for a wrong setting, DataError where the data cannot support the task.
    """
    recipe = make_recipe(preset, task, k, seed, overrides)
    labels = dataset.labels(artifacts)
    chosen = choose_expressions(labels.expressions, recipe.faces.max_expressions, recipe.seed)
    if len(chosen) < len(labels.expressions):
        labels = labels.take(labels.rows_with("expression", chosen)).compact()
    split = make_split(labels, recipe.split)
    k = recipe.shots if recipe.split.task in FEW_SHOT_TASKS else 0
    drawn = shots(labels, split, k, draw, recipe.seed, recipe.shots_per)
    proof = prove_split(labels, split, drawn, k, recipe.shots_per)
    return TaskReport(recipe=recipe.split, shots=k, shots_per=recipe.shots_per, draw=draw, proof=proof)


def report_supervised(
    artifacts: Artifacts, dataset: Dataset, name: str, seed: int, overrides: Mapping[str, str]
) -> SupervisedReport:
    """The same for a supervised split by its name."""
    recipe = supervised_recipe(name, seed, overrides)
    labels = dataset.labels(artifacts)
    return SupervisedReport(recipe=recipe, proof=prove_supervised(labels, make_supervised_split(labels, recipe)))
