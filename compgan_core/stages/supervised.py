"""Section 5.1: recognising expressions without novel categories, by networks and by classical methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compgan_core import baselines, metrics, networks, synthesize
from compgan_core.baselines import BaselineRecipe
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Rows
from compgan_core.data.supervised import SupervisedRecipe, make_supervised_split
from compgan_core.errors import DataError
from compgan_core.nets.attention import AttentionCNNRecipe
from compgan_core.nets.classifier import gray
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.randomness import generator
from compgan_core.stages.inputs import Inputs, Metrics, write_result
from compgan_core.training import classifier as training_of
from compgan_core.training.classifier import SteppedRecipe
from compgan_core.training.runtime import Runtime, over_workers, save_state

CHUNK = 64  # images a forward pass
ALIKE = 6  # expressions in Fig. 3


def supervised(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe | AttentionCNNRecipe,
    size: int,
    split: SupervisedRecipe,
    training: SteppedRecipe,
    seed: int,
) -> Metrics:
    """A network on the training faces of a supervised split, counted on its test faces.

    Inputs: faces; pretrained, whose trunk it starts from.
    """
    data = Faces.open(inputs["faces"])
    roles = make_supervised_split(data.labels, split)
    model = networks.supervised(network, size, data.labels, seed)
    if "pretrained" in inputs:
        networks.take_trunk(model, inputs["pretrained"] / "classifier.safetensors")
    source = training_of.epochs_of(data, roles.train, size, seed, runtime.device)
    history = training_of.train(runtime, model.to(runtime.device), source, training, len(roles.train), seed)
    write_result(runtime, out, history, classifier=model)
    model.eval().requires_grad_(False)

    def read(rows: Rows) -> np.ndarray:
        def compute(part: slice) -> Tensor:
            logits = model(synthesize.load(data, rows[part], size, runtime.device))
            return getattr(logits, split.of).argmax(1)

        with torch.inference_mode():
            return over_workers(runtime, len(rows), CHUNK, compute).cpu().numpy()

    return _count(runtime, out, data, split, read) | {"loss": history[-1][split.of]}


def attributes(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    size: int,
    test: float,
    training: SteppedRecipe,
    seed: int,
) -> Metrics:
    """LightCNN on all binary attributes at once (Sec. 5.1); `accuracy` is the mean over them, of the share `test` of
    the faces. Inputs: faces, whose cache keeps attributes. DataError: fewer than ten faces have any."""
    data = Faces.open(inputs["faces"])
    names, true = data.attributes()
    known = np.flatnonzero(true.any(axis=1))
    if len(known) < 10:
        raise DataError(
            f"pre-training on attributes needs ten faces that have some, and {len(known)} have: import a source "
            "that has them, such as CelebA with list_attr_celeba.txt"
        )
    drawn = generator(seed, "attributes").permutation(known)
    tests, trains = np.split(drawn, [max(1, round(test * len(known)))])
    model = networks.attribute_classifier(network, size, len(names), seed).to(runtime.device)
    source = training_of.attributed_of(data, true, np.sort(trains), size, seed, runtime.device)
    history = training_of.train(runtime, model, source, training, len(trains), seed)
    write_result(runtime, out, history, classifier=model)
    model.eval().requires_grad_(False)

    def compute(part: slice) -> Tensor:
        return model(synthesize.load(data, tests[part], size, runtime.device)) > 0

    with torch.inference_mode():
        read = over_workers(runtime, len(tests), CHUNK, compute).cpu().numpy().astype(bool)
    of_each = 100 * (read == true[tests]).mean(axis=0)
    always = 100 * np.maximum(true[trains].mean(axis=0), 1 - true[trains].mean(axis=0)).mean()
    if runtime.rank == 0:
        (out / "attributes.json").write_text(json.dumps(dict(zip(names, of_each.tolist(), strict=True)), indent=1))
    return {"accuracy": float(of_each.mean()), "of_the_commoner": float(always), "images": float(len(tests))}


def baseline(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    baseline: BaselineRecipe,
    network: LightCNNRecipe | None,
    size: int,
    split: SupervisedRecipe,
    seed: int,
) -> Metrics:
    """A classical method on the same faces. Inputs: faces; pretrained, for the method "features" of that network.

    The work is rank 0's: scikit-learn knows no workers.
    """
    data = Faces.open(inputs["faces"])
    roles = make_supervised_split(data.labels, split)
    if network:
        model = networks.supervised(network, size, data.labels, 0)
        networks.take_trunk(model, inputs["pretrained"] / "classifier.safetensors")
        model.eval().to(runtime.device)

    def compute(rows: Rows) -> Tensor:
        faces = synthesize.load(data, rows, size, runtime.device)
        if network:
            return model.features(faces)
        side = baseline.side
        return F.interpolate(gray(faces), (side, side), mode="bilinear", antialias=True, align_corners=False)[:, 0]

    def seen(rows: Rows) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([compute(part).cpu() for part in np.array_split(rows, -(-len(rows) // CHUNK))]).numpy()

    answers = torch.zeros(len(roles.test) + len(roles.validation), dtype=torch.int64, device=runtime.device)
    if runtime.rank == 0:
        fitted = baselines.fit(baseline, seen(roles.train), data.labels.codes(split.of)[roles.train], seed)
        rows = np.concatenate([roles.test, roles.validation])
        answers += torch.from_numpy(baselines.read(fitted, baseline, seen(rows))).to(runtime.device)
    answered = runtime.all_reduce_sum(answers).cpu().numpy()
    order = np.concatenate([roles.test, roles.validation])
    return _count(runtime, out, data, split, lambda rows: answered[[np.flatnonzero(order == row)[0] for row in rows]])


def alike(inputs: Inputs, out: Path, runtime: Runtime, *, network: LightCNNRecipe, size: int) -> Metrics:
    """The features of one person's faces in the expressions that are hardest to tell apart (Fig. 3).

    The person is the one with most faces. Inputs: faces; classifier, as the stage `supervised` leaves it.
    """
    data = Faces.open(inputs["faces"])
    known = np.flatnonzero((data.labels.identity >= 0) & (data.labels.expression >= 0))
    if runtime.rank or not len(known):
        return {}
    rows = known[data.labels.identity[known] == np.bincount(data.labels.identity[known]).argmax()]
    model = networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device)
    with torch.inference_mode():
        parts = np.array_split(rows, -(-len(rows) // CHUNK))
        features = torch.cat([model.features(synthesize.load(data, part, size, runtime.device)) for part in parts])
    codes = data.labels.expression[rows]
    chosen = _nearest(features.cpu().numpy(), codes, ALIKE)
    kept = np.flatnonzero(np.isin(codes, chosen))
    names = [data.labels.expressions[code] for code in codes[kept]]
    save_state(out / "features.safetensors", {"features": features[kept].cpu()})
    (out / "expressions.json").write_text(json.dumps(names))
    return {"faces": len(kept)}


def _nearest(features: np.ndarray, codes: np.ndarray, count: int) -> list[int]:
    """The classes whose means lie nearest together: the nearest two, then whichever is next to their middle."""
    classes = np.unique(codes)
    means = np.stack([features[codes == c].mean(0) for c in classes])
    distances = np.linalg.norm(means[:, None] - means, axis=2) + np.diag(np.full(len(classes), np.inf))
    chosen = [*divmod(int(distances.argmin()), len(classes))] if len(classes) > 1 else [0]
    while len(chosen) < min(count, len(classes)):
        away = np.linalg.norm(means - means[chosen].mean(0), axis=1)
        away[chosen] = np.inf
        chosen.append(int(away.argmin()))
    return [int(classes[i]) for i in chosen]


def _count(
    runtime: Runtime, out: Path, data: Faces, split: SupervisedRecipe, read: Callable[[Rows], np.ndarray]
) -> Metrics:
    """Accuracies in percent on validation and test faces; what was read, and the confusion of the test faces."""
    roles = make_supervised_split(data.labels, split)
    codes, names = data.labels.codes(split.of), data.labels.names(split.of)
    seen = read(roles.test)
    counts = metrics.confusion(torch.from_numpy(codes[roles.test]).long(), torch.from_numpy(seen), len(names)).numpy()
    found = {"accuracy": 100 * float((seen == codes[roles.test]).mean()), "images": float(len(seen))}
    if len(roles.validation):
        found["validation"] = 100 * float((read(roles.validation) == codes[roles.validation]).mean())
    if runtime.rank == 0:
        np.savez_compressed(
            out / "readings.npz", rows=roles.test.astype(np.int32), truth=codes[roles.test], read=seen.astype(np.int32)
        )
        np.savez(out / "confusion.npz", base=counts)
        (out / "expressions.json").write_text(json.dumps(names))
    return found
