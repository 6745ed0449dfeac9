"""Recognition with and without synthesized faces: fine-tuning, the head on turned faces, the counts on unseen rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compgan_core import metrics, transforms
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Labels, Rows
from compgan_core.data.splits import Split
from compgan_core.errors import DataError
from compgan_core.randomness import uniform
from compgan_core.training.classifier import ClassifierRecipe, Share, cross_entropy
from compgan_core.training.loop import Trainee, Update, fit
from compgan_core.training.optim import build
from compgan_core.training.runtime import Runtime, over_workers, share, trainable
from compgan_core.training.stopwatch import grad
from compgan_core.views import HeadRecipe

CHUNK = 64  # images a forward pass


class FinetuneRecipe(BaseModel):
    """How F_cls is fine-tuned on base, novel and synthesized faces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: ClassifierRecipe = ClassifierRecipe()
    novel_share: float = Field(0.5, ge=0, le=1)
    """Share of a batch that comes from the novel categories, real or synthesized; of the whole synthesized part where
    no category is novel."""
    synthetic_share: float = Field(0.85, ge=0, le=1)
    """Share of that part that is synthesized."""


class Added(NamedTuple):
    """Faces that enlarge the training set, and which of their rows are used."""

    faces: Faces
    rows: Rows


def mixture(faces: Faces, base: Rows, shots: Rows, added: list[Added], recipe: FinetuneRecipe) -> list[Share]:
    """What a batch of fine-tuning is drawn from: base faces, shots, and added faces in equal chance of each face."""
    drawn = sum(len(a.rows) for a in added)
    novel = recipe.novel_share if len(shots) or drawn else 0.0
    synthetic = 0.0 if not drawn else novel * (recipe.synthetic_share if len(shots) else 1.0)
    shares = [Share(faces, base, 1 - novel), Share(faces, shots, novel - synthetic)]
    shares += [Share(a.faces, a.rows, synthetic * len(a.rows) / max(drawn, 1)) for a in added]
    return [s for s in shares if len(s.rows) and s.chance > 0]


class Table(NamedTuple):
    """A part of the training set as features of a view."""

    features: Tensor
    """(n, width)"""
    labels: Tensor
    """Expressions, int64 (n,)."""
    chance: float


def feature_table(runtime: Runtime, features: Callable[[Faces, Rows], Tensor], part: Share) -> Table:
    """The features of a share of the training mixture, computed by all workers together. Collective."""
    with torch.inference_mode():
        table = over_workers(runtime, len(part.rows), CHUNK, lambda rows: features(part.faces, part.rows[rows]))
    labels = torch.from_numpy(part.faces.labels.expression[part.rows]).long().to(runtime.device)
    return Table(table.clone(), labels, part.chance)  # cloned: a tensor that a training loop may use


def train_head(
    runtime: Runtime, plain: nn.Linear, tables: list[Table], recipe: HeadRecipe, seed: int
) -> tuple[nn.Linear, list[dict[str, float]]]:
    """The expression head on the features of a view, the trunk and the generators frozen; (head, history).

    The head starts as the plain one on the first feature, so that further ones can be used but are not imposed.
    """
    width = tables[0].features.shape[1]
    head = nn.Linear(width, plain.out_features).to(runtime.device)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, : plain.in_features] = plain.weight
        head.bias.copy_(plain.bias)
    engine = runtime.engine(head, build(head, recipe.optimizer), recipe.optimizer.max_grad_norm)
    features, labels = torch.cat([t.features for t in tables]), torch.cat([t.labels for t in tables])
    chance = torch.cat([torch.full((len(t.labels),), t.chance / len(t.labels), dtype=torch.float64) for t in tables])
    edges, batch = chance.cumsum(0) / chance.sum(), recipe.schedule.batch

    def update(step: int) -> Update:
        samples = torch.arange(step * batch, (step + 1) * batch)[share(runtime, batch)]
        u = uniform(seed, "head", samples, 1)[:, 0].double()
        rows = torch.searchsorted(edges, u, right=True).clamp(max=len(labels) - 1).to(runtime.device)
        mask = transforms.dropout_mask(seed, samples.to(runtime.device), width, recipe.dropout)
        x = features[rows] if mask is None else features[rows] * mask
        loss = cross_entropy(head(x), labels[rows])
        return Update({"expression": loss.detach()}, {"head": list(grad(loss, trainable(head)))})

    steps = recipe.schedule.total_steps(len(labels))
    return head, fit(runtime, {"head": Trainee(engine, recipe.optimizer.lr)}, update, recipe.schedule, steps, batch)


class Unseen(NamedTuple):
    """Rows that a classifier did not train on."""

    base: Rows
    novel: Rows
    """Empty for a task without a novel attribute."""


def validation_rows(split: Split, shots: Rows) -> Unseen:
    """The rows to choose by: base faces kept from training, and the novel pool without this draw's `shots`.

    The "oracle" variant trains on the latter. Raises DataError where there are no such rows.
    """
    task, rows = split.recipe.task, Unseen(split.base_validation, np.setdiff1d(split.novel_pool, shots))
    if not len(rows.base):
        raise DataError(
            f"the {task} split keeps no base face for validation, at split.validation_fraction="
            f"{split.recipe.validation_fraction:g} of {len(split.base_train)}: set a larger fraction"
        )
    if split.novel_attribute and not len(rows.novel):
        raise DataError(f"all {len(shots)} novel faces that do not test are shots, so none validates: use fewer shots")
    return rows


class Readings(NamedTuple):
    """What a classifier read in unseen faces: an expression, int64 (n,), for each of the rows of `Unseen`."""

    base: np.ndarray
    novel: np.ndarray
    novel_only: np.ndarray
    """In novel images, among the novel expressions only; equals `novel` where no expression is novel."""


class Counts(NamedTuple):
    """Confusion matrices int64 (expressions, expressions), of `Readings`."""

    base: np.ndarray
    novel: np.ndarray
    novel_only: np.ndarray


def read(
    runtime: Runtime, logits_of: Callable[[Rows], Tensor], labels: Labels, split: Split, unseen: Unseen
) -> Readings:
    """Classify these rows. Collective. logits_of(rows) -> (n, expressions)."""
    allowed = torch.ones(len(labels.expressions), dtype=torch.bool, device=runtime.device)
    if split.novel_attribute == "expression":
        allowed[:] = False
        allowed[[labels.expressions.index(name) for name in split.novel_categories]] = True

    def read_rows(rows: Rows) -> np.ndarray:
        def compute(part: slice) -> Tensor:
            logits = logits_of(rows[part]).float()
            among_novel = logits.masked_fill(~allowed, -torch.inf)
            return torch.stack([logits.argmax(1), among_novel.argmax(1)], dim=1)

        if not len(rows):
            return np.empty((0, 2), np.int64)
        return over_workers(runtime, len(rows), CHUNK, compute).cpu().numpy()

    with torch.inference_mode():
        base, novel = read_rows(unseen.base), read_rows(unseen.novel)
    return Readings(base[:, 0], novel[:, 0], novel[:, 1])


def count(readings: Readings, labels: Labels, unseen: Unseen) -> Counts:
    """Row: truth, column: what was read."""
    truth, classes = labels.expression, len(labels.expressions)
    pairs = zip((unseen.base, unseen.novel, unseen.novel), readings, strict=True)
    return Counts(
        *(
            metrics.confusion(torch.from_numpy(truth[rows]).long(), torch.from_numpy(seen), classes).numpy()
            for rows, seen in pairs
        )
    )


def summary(counts: Counts) -> dict[str, float]:
    """The figures of a table's row, in percent: base, novel, novel among novel, harmonic mean, pooled; Table 7's."""
    base, novel, only = (metrics.class_metrics(c) for c in counts)
    pooled_counts = counts.base + counts.novel
    pooled = metrics.class_metrics(pooled_counts)
    figures = {"base": base.top1, "pooled": pooled.top1}
    if novel.images:
        figures |= {"novel": novel.top1, "novel_only": only.top1}
        figures["harmonic"] = metrics.harmonic_mean(base.top1, novel.top1)
    figures |= {
        "pooled_mean_accuracy": metrics.mean_accuracy(pooled_counts),
        "pooled_balanced_accuracy": pooled.balanced_accuracy,
        "pooled_macro_precision": pooled.macro_precision,
        "pooled_macro_recall": pooled.macro_recall,
        "pooled_macro_f1": pooled.macro_f1,
    }
    return {name: round(100 * float(value), 3) for name, value in figures.items() if not math.isnan(value)}
