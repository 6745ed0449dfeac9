"""Training classifiers, and counting what they read in unseen faces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compgan_core import networks, randomness, recognize, synthesize, views
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Rows
from compgan_core.data.shots import ShotsPer, shots
from compgan_core.data.splits import Split
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.recognize import Added, FinetuneRecipe
from compgan_core.stages.inputs import Inputs, Metrics, open_data, write_result
from compgan_core.training import classifier as supervised
from compgan_core.training.classifier import ClassifierRecipe, Share
from compgan_core.training.runtime import Runtime
from compgan_core.variants import REAL
from compgan_core.views import HeadRecipe, ViewKind


def pretrain(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    size: int,
    training: ClassifierRecipe,
    seed: int,
) -> Metrics:
    """LightCNN on the identities of the base training images. Inputs: faces, split."""
    data, roles = open_data(inputs)
    model = networks.face_classifier(network, size, data.labels, seed).to(runtime.device)
    return _train_classifier(runtime, model, data, roles, size, training, seed, out)


def classifier(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    size: int,
    training: ClassifierRecipe,
    seed: int,
) -> Metrics:
    """F_cls, three heads on D_base, from the pre-trained trunk. Inputs: faces, split, pretrain."""
    data, roles = open_data(inputs)
    model = networks.face_classifier(network, size, data.labels, seed)
    networks.take_trunk(model, inputs["pretrain"] / "classifier.safetensors")
    return _train_classifier(runtime, model.to(runtime.device), data, roles, size, training, seed, out)


def finetune(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    added: tuple[str, ...],
    network: LightCNNRecipe,
    size: int,
    finetune: FinetuneRecipe,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    tuning: int,
    count: int,
    seed: int,
) -> Metrics:
    """F_cls fine-tuned on D_base, D_novel and `count` faces of each kind added for each category.

    Inputs: faces, split, classifier; synthesis-<kind> for each kind but REAL.
    """
    data, roles = open_data(inputs)
    model = networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device)
    model.requires_grad_(True)
    drawn = shots(data.labels, roles, shots_per_category, draw, seed, shots_per)
    mixture = _mixture(inputs, data, roles, added, finetune, drawn, count, seed)
    tuning_seed = _tuning_seed(seed, draw, tuning)
    source = supervised.mixture_of(mixture, size, tuning_seed, runtime.device)
    n_real = len(roles.base_train) + len(drawn)
    history = supervised.train(runtime, model, source, finetune.training, n_real, tuning_seed)
    write_result(runtime, out, history, classifier=model)
    return {"images_added": sum(len(part.rows) for part in mixture if part.faces is not data), **history[-1]}


def head(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    view: ViewKind,
    added: tuple[str, ...],
    network: LightCNNRecipe,
    generator: GeneratorRecipe,
    size: int,
    finetune: FinetuneRecipe,
    head: HeadRecipe,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    tuning: int,
    count: int,
    seed: int,
) -> Metrics:
    """The expression head on turned faces, on the same training faces. Inputs: as finetune; finetune, compgan."""
    data, roles = open_data(inputs)
    model = networks.load_classifier(inputs["finetune"], network, size, data.labels, runtime.device)
    features = _features_of(inputs, runtime, model, data, roles, view, generator, head, size, seed)
    drawn = shots(data.labels, roles, shots_per_category, draw, seed, shots_per)
    mixture = _mixture(inputs, data, roles, added, finetune, drawn, count, seed)
    tables = [recognize.feature_table(runtime, features, part) for part in mixture]
    trained, history = recognize.train_head(runtime, model.expression, tables, head, _tuning_seed(seed, draw, tuning))
    write_result(runtime, out, history, head=trained)
    return history[-1]


def evaluate(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    view: ViewKind,
    generator: GeneratorRecipe | None,
    head: HeadRecipe | None,
    size: int,
    seed: int,
) -> Metrics:
    """The counts on the test rows. Inputs: faces, split, finetune; for turned faces compgan and head."""
    data, roles = open_data(inputs)
    logits_of = _logits_of(inputs, runtime, data, roles, network, view, generator, head, size, seed)
    return _count(runtime, out, logits_of, data, roles, recognize.Unseen(roles.test_base, roles.test_novel))


def validate(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    view: ViewKind,
    generator: GeneratorRecipe | None,
    head: HeadRecipe | None,
    size: int,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    seed: int,
) -> Metrics:
    """The counts on validation rows, to choose by: as evaluate, without a look at a test row. Inputs: as evaluate."""
    data, roles = open_data(inputs)
    rows = recognize.validation_rows(roles, shots(data.labels, roles, shots_per_category, draw, seed, shots_per))
    logits_of = _logits_of(inputs, runtime, data, roles, network, view, generator, head, size, seed)
    return _count(runtime, out, logits_of, data, roles, rows)


def _train_classifier(
    runtime: Runtime,
    model: FaceClassifier,
    data: Faces,
    roles: Split,
    size: int,
    training: ClassifierRecipe,
    seed: int,
    out: Path,
) -> Metrics:
    source = supervised.epochs_of(data, roles.base_train, size, seed, runtime.device)
    history = supervised.train(runtime, model, source, training, len(roles.base_train), seed)
    write_result(runtime, out, history, classifier=model)
    return history[-1]


def _tuning_seed(seed: int, draw: int, tuning: int) -> int:
    """Fine-tuning draws its batches anew for each draw of the shots, and each time it is repeated."""
    return seed + 1000 * (draw + 1) + 1_000_000 * tuning


def _mixture(
    inputs: Inputs,
    data: Faces,
    roles: Split,
    added: tuple[str, ...],
    finetune: FinetuneRecipe,
    drawn: Rows,
    count: int,
    seed: int,
) -> list[Share]:
    """Base faces, shots, and the first `count` faces of each category of each kind added."""
    sets = []
    for kind in added:
        if kind == REAL:
            sets.append(Added(data, _held_back(data, roles, drawn, count, seed)))
        else:
            made = Faces.open(inputs[f"synthesis-{kind}"], like=data.labels)
            sets.append(Added(made, np.flatnonzero(made.labels.frame < count)))
    return recognize.mixture(data, roles.base_train, drawn, sets, finetune)


def _held_back(data: Faces, roles: Split, drawn: Rows, count: int, seed: int) -> Rows:
    """Up to `count` real images of each novel category that are neither shots nor test images."""
    if roles.novel_attribute is None:
        return np.empty(0, np.int64)
    pool = np.setdiff1d(roles.novel_pool, drawn)
    codes = data.labels.codes(roles.novel_attribute)[pool]
    order = randomness.generator(seed, "oracle").permutation(len(pool))
    chosen = [order[codes[order] == c][:count] for c in np.unique(codes)]
    return pool[np.sort(np.concatenate(chosen))] if chosen else pool


def _features_of(
    inputs: Inputs,
    runtime: Runtime,
    model: FaceClassifier,
    data: Faces,
    roles: Split,
    view: ViewKind,
    generator: GeneratorRecipe,
    head: HeadRecipe,
    size: int,
    seed: int,
) -> Callable[[Faces, Rows], Tensor]:
    """features(faces, rows) -> what a head reads, (n, width), on this worker alone."""
    g_pose = networks.load_gan(inputs["compgan"], generator, runtime.device).pose
    bank = views.pose_bank(data.labels, roles, head.references, seed)
    loaded = views.load_bank(data, bank, size, runtime.device)
    see = views.View(view, model, g_pose, loaded, data.labels.poses, head.keep_posed)
    return lambda faces, rows: see(synthesize.load(faces, rows, size, runtime.device))


def _logits_of(
    inputs: Inputs,
    runtime: Runtime,
    data: Faces,
    roles: Split,
    network: LightCNNRecipe,
    view: ViewKind,
    generator: GeneratorRecipe | None,
    head: HeadRecipe | None,
    size: int,
    seed: int,
) -> Callable[[Rows], Tensor]:
    """logits_of(rows) -> (n, expressions), of the fine-tuned classifier or, for turned faces, of their head."""
    model = networks.load_classifier(inputs["finetune"], network, size, data.labels, runtime.device)
    if generator is None or head is None:
        return lambda rows: model(synthesize.load(data, rows, size, runtime.device)).expression
    features = _features_of(inputs, runtime, model, data, roles, view, generator, head, size, seed)
    width = model.expression.in_features * views.width(view, data.labels.poses)
    trained = networks.load(
        nn.Linear(width, len(data.labels.expressions)), inputs["head"] / "head.safetensors", runtime.device
    )
    return lambda rows: trained(features(data, rows))


def _count(
    runtime: Runtime,
    out: Path,
    logits_of: Callable[[Rows], Tensor],
    data: Faces,
    roles: Split,
    unseen: recognize.Unseen,
) -> Metrics:
    readings = recognize.read(runtime, logits_of, data.labels, roles, unseen)
    counts = recognize.count(readings, data.labels, unseen)
    if runtime.rank == 0:
        rows = {f"{part}_rows": rows.astype(np.int32) for part, rows in unseen._asdict().items()}
        truth = {f"{part}_truth": data.labels.expression[rows] for part, rows in unseen._asdict().items()}
        read = {f"{part}_read": seen.astype(np.int32) for part, seen in readings._asdict().items()}
        tables: dict[str, Any] = rows | truth | read
        np.savez_compressed(out / "readings.npz", **tables)
        np.savez(out / "confusion.npz", **counts._asdict())
        (out / "expressions.json").write_text(json.dumps(data.labels.expressions))
    return recognize.summary(counts)
