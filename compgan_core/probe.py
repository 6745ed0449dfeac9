"""A glance at a Comp-GAN in training, for whoever has to decide early whether it is worth going on.

Never part of a result: nothing that a stage makes depends on it, and it leaves the networks and all random states as it
found them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compgan_core import networks
from compgan_core.compgan import CompGAN
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Attribute, Labels, Rows
from compgan_core.data.shots import ShotsPer
from compgan_core.data.shots import shots as draw_shots
from compgan_core.data.splits import Split
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.judge import Judge
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.randomness import generator
from compgan_core.recipe import JudgeRecipe
from compgan_core.synthesize import Edits, load, plan_edits
from compgan_core.variants import KINDS

PROBED = ("pose", "exp")
READ: tuple[Attribute, ...] = ("pose", "expression", "identity")
FEW_SHOT_ROWS = 256
CHUNK = 64  # images a forward pass


Probe = Callable[[Mapping[str, nn.Module]], dict[str, float]]


def probe_of(
    inputs: Mapping[str, Path],
    device: torch.device,
    *,
    network: LightCNNRecipe,
    judge: JudgeRecipe,
    size: int,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    seed: int,
) -> Probe:
    """`probe` of the networks that `Runtime.observe` is given. Inputs: faces, split, classifier, judge."""
    data = Faces.open(inputs["faces"])
    split = Split.load(inputs["split"] / "split.json", data.labels)
    drawn = draw_shots(data.labels, split, shots_per_category, draw, seed, shots_per)
    reader = networks.load_judge(inputs["judge"], judge.network, size, data.labels, device)
    f_cls = networks.load_classifier(inputs["classifier"], network, size, data.labels, device)

    def look(trained: Mapping[str, nn.Module]) -> dict[str, float]:
        gan = CompGAN(trained["pose"], trained["exp"])
        return probe(gan, reader, f_cls, data, split, drawn, size, seed, device)

    return look


def probe(
    gan: CompGAN,
    judge: Judge,
    f_cls: FaceClassifier,
    data: Faces,
    split: Split,
    shots: Rows,
    size: int,
    seed: int,
    device: torch.device,
    edits: int = 64,
    per_shot: int = 4,
) -> dict[str, float]:
    """How the generators do at present, in percent; the same arguments look at the same faces.

    probe_pose, probe_expression, probe_identity: what the judge reads as intended in `edits` edits of base training
    faces, half by each generator; a generator that returns its source has about 50, 50 and 100.
    probe_few_shot: the top-1 accuracy, by expression, of the nearest class mean in F_cls's features. The means are of
    the shots and, for each shot, of `per_shot` faces that G(Exp) makes with it. It is read on at most 256 faces of the
    novel pool that are no shots and whose expression was made; absent where there are none.
    probe_edits_alone: the same without the shots, which moves far more as the generators learn.
    """
    with _evaluating(gan, judge, f_cls), torch.inference_mode():
        read = _read_by_judge(gan, judge, data, split, edits, size, seed, device)
        return read | _few_shot(gan, f_cls, data, split, shots, per_shot, size, seed, device)


def _read_by_judge(
    gan: CompGAN, judge: Judge, data: Faces, split: Split, edits: int, size: int, seed: int, device: torch.device
) -> dict[str, float]:
    plans = {kind: _edits_of_base(kind, data.labels, split, edits // 2, seed) for kind in PROBED}
    logits = [judge(_made(gan, kind, data, plan, size, device)) for kind, plan in plans.items()]
    figures = {}
    for what in READ:
        read = torch.cat([getattr(of, what).argmax(1) for of in logits]).cpu().numpy()
        meant = np.concatenate([plan.labels.codes(what) for plan in plans.values()])
        figures[f"probe_{what}"] = _percent(read == meant)
    return figures


def _edits_of_base(kind: str, labels: Labels, split: Split, n: int, seed: int) -> Edits:
    """`n` edits of base faces after base faces, evenly over the categories of the edited attribute."""
    edited = KINDS[kind].edits
    assert edited is not None
    categories = len(np.unique(labels.codes(edited)[split.base_train]))
    plan = plan_edits(kind, edited, labels, split, np.empty(0, np.int64), -(-n // categories), seed, 0)
    some = generator(seed, "probe edits", kind).permutation(len(plan.source))[:n]
    return Edits(plan.source[some], plan.reference[some], plan.labels.take(some))


def _few_shot(
    gan: CompGAN,
    f_cls: FaceClassifier,
    data: Faces,
    split: Split,
    shots: Rows,
    per_shot: int,
    size: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    if not len(shots):
        return {}
    pool = per_shot * len(shots) // len(split.novel_categories)
    plan = plan_edits("exp", "expression", data.labels, split, shots, pool, seed, 0)
    rows = _validation_rows(data.labels, split, shots, plan.labels.expression, seed)
    if not len(rows):
        return {}
    real, queries = (_features(f_cls, load(data, r, size, device)) for r in (shots, rows))
    edited = _features(f_cls, _made(gan, "exp", data, plan, size, device))
    truth, of_real, of_edited = data.labels.expression[rows], data.labels.expression[shots], plan.labels.expression
    read = _nearest_mean(torch.cat([real, edited]), np.concatenate([of_real, of_edited]), queries)
    read_without_shots = _nearest_mean(edited, of_edited, queries)
    return {"probe_few_shot": _percent(read == truth), "probe_edits_alone": _percent(read_without_shots == truth)}


def _validation_rows(labels: Labels, split: Split, shots: Rows, expressions: np.ndarray, seed: int) -> Rows:
    """At most FEW_SHOT_ROWS novel faces of these expressions that neither test nor are shots."""
    rows = np.setdiff1d(split.novel_pool, shots)
    rows = rows[np.isin(labels.expression[rows], expressions)]
    return generator(seed, "probe rows").permutation(rows)[:FEW_SHOT_ROWS]


def _nearest_mean(examples: Tensor, classes: np.ndarray, queries: Tensor) -> np.ndarray:
    """The class of the nearest class mean for each query. examples: (n, d). classes: (n,). queries: (m, d)."""
    names, of = np.unique(classes, return_inverse=True)
    means = torch.stack([examples[torch.from_numpy(of == c)].mean(0) for c in range(len(names))])
    return names[torch.cdist(queries, means).argmin(1).cpu().numpy()]


def _made(gan: CompGAN, kind: str, data: Faces, plan: Edits, size: int, device: torch.device) -> Tensor:
    """The edited faces (n, 3, size, size) of a plan."""
    network = getattr(gan, kind)
    source, reference = (load(data, rows, size, device).split(CHUNK) for rows in (plan.source, plan.reference))
    return torch.cat([network(a, b) for a, b in zip(source, reference, strict=True)])


def _features(f_cls: FaceClassifier, faces: Tensor) -> Tensor:
    return torch.cat([f_cls.features(part) for part in faces.split(CHUNK)])


def _percent(hits: np.ndarray) -> float:
    return 100 * float(hits.mean())


@contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    """The networks in evaluation mode; every part of them goes back to the mode it had."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
