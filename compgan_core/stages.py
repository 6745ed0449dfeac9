"""The stages of a study, each a function of directories and of exactly the settings that decide its result.

A stage reads the directories of its inputs, computes on whatever Runtime it is given (every worker calls it), writes
its files on rank 0 into `out`, and returns the metrics of its record. Its keyword arguments are its identity: whoever
runs it hashes them, so it cannot use a setting that is not accounted for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from compgan_core import networks, randomness, recognize, synthesize
from compgan_core import quality as quality_of
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.labels import Rows
from compgan_core.data.proof import leaked
from compgan_core.data.shots import ShotsPer, shots
from compgan_core.data.splits import ROLES, Split, SplitRecipe, make_split
from compgan_core.data.tuples import TupleSampler
from compgan_core.losses import Weights
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.pictures import loss_curves
from compgan_core.recipe import JudgeRecipe
from compgan_core.recognize import Added, CombineRecipe, FinetuneRecipe
from compgan_core.training import classifier as supervised
from compgan_core.training import gan as gan_training
from compgan_core.training.classifier import ClassifierRecipe, Share
from compgan_core.training.gan import CompGANRecipe
from compgan_core.training.runtime import Runtime, load_state, save_state

Inputs = Mapping[str, Path]
Metrics = dict[str, float]


def split(inputs: Inputs, out: Path, runtime: Runtime, *, split: SplitRecipe) -> Metrics:
    """Which rows train and which test. Input: faces."""
    labels = Faces.open(inputs["faces"]).labels
    made = make_split(labels, split)
    if runtime.rank == 0:
        made.save(out / "split.json", labels)
    metrics: Metrics = {role: len(getattr(made, role)) for role in ROLES}
    return metrics | {"leaked": leaked(labels, made.base_train, made.test_base)}


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
    data, roles = _data(inputs)
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
    data, roles = _data(inputs)
    model = networks.face_classifier(network, size, data.labels, seed)
    weights, _ = load_state(inputs["pretrain"] / "classifier.safetensors")
    model.trunk.load_state_dict({k.removeprefix("trunk."): t for k, t in weights.items() if k.startswith("trunk.")})
    return _train_classifier(runtime, model.to(runtime.device), data, roles, size, training, seed, out)


def judge(inputs: Inputs, out: Path, runtime: Runtime, *, judge: JudgeRecipe, size: int, seed: int) -> Metrics:
    """The judge, on nine tenths of all rows, degraded; it supervises nobody. Input: faces."""
    data = Faces.open(inputs["faces"])
    model = networks.face_judge(judge.network, size, data.labels, seed).to(runtime.device)
    rows, held_out = quality_of.judge_rows(len(data.labels), seed)
    source = supervised.epochs_of(data, rows, size, seed + 1, runtime.device)
    history = supervised.train(runtime, model, source, judge.training, len(rows), seed + 1)
    _write(runtime, out, history, judge=model)
    return quality_of.ceiling(model, data, held_out, size, runtime.device)


def compgan(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    size: int,
    compgan: CompGANRecipe,
    lambda_: Weights,
    mu: Weights,
    seed: int,
) -> Metrics:
    """G(Pose), G(Exp) and D on D_base, F_cls frozen. Inputs: faces, split, classifier."""
    data, roles = _data(inputs)
    f_cls = networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device)
    gan = networks.comp_gan(compgan.generator, seed).to(runtime.device)
    discriminator = networks.discriminator(compgan.discriminator, size, seed).to(runtime.device)
    sampler = TupleSampler(data.labels, roles.base_train, seed, compgan.reference_mismatch)
    tuples = gan_training.tuples_of(data, sampler, size, seed, runtime.device)
    history = gan_training.train(
        runtime, gan, discriminator, f_cls, tuples, compgan, lambda_, mu, len(roles.base_train)
    )
    _write(runtime, out, history, pose=gan.pose, exp=gan.exp, discriminator=discriminator)
    return {"tuples": sampler.count, **history[-1]}


def quality(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    size: int,
    generator: GeneratorRecipe,
    judge: JudgeRecipe,
    seed: int,
) -> Metrics:
    """What the judge and F_cls read in edits of base training faces, and their distance to the truth.

    Inputs: faces, split, classifier, compgan, judge.
    """
    data, roles = _data(inputs)
    gan = networks.load_gan(inputs["compgan"], generator, runtime.device)
    readers = {
        "judge": networks.load_judge(inputs["judge"], judge.network, size, data.labels, runtime.device),
        "f_cls": networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device),
    }
    sampler = TupleSampler(data.labels, roles.base_train, seed + 1, 0.0)
    tuples = gan_training.tuples_of(data, sampler, size, seed + 1, runtime.device)
    return quality_of.edits(runtime, gan, readers, tuples, judge.edits)


def synthesis(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    kind: synthesize.Kind,
    generator: GeneratorRecipe | None,
    size: int,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    pool: int,
    seed: int,
) -> Metrics:
    """A pool of faces of one kind for each category. Inputs: faces, split, compgan."""
    data, roles = _data(inputs)
    drawn = shots(data.labels, roles, shots_per_category, draw, seed, shots_per)
    edits = synthesize.plan_edits(kind, data.labels, roles, drawn, pool, seed, draw)
    gan = networks.load_gan(inputs["compgan"], generator, runtime.device) if generator else None
    images = synthesize.synthesize(runtime, kind, gan, data, edits, size, seed)
    if runtime.rank == 0:
        write_cache(images, edits.labels, out)
    return {"faces": len(images)}


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
    count: int,
    seed: int,
) -> Metrics:
    """F_cls fine-tuned on D_base, D_novel and `count` faces of each kind added for each category.

    Inputs: faces, split, classifier; synthesis-<kind> for each kind but "real".
    """
    data, roles = _data(inputs)
    model = networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device)
    model.requires_grad_(True)
    drawn = shots(data.labels, roles, shots_per_category, draw, seed, shots_per)
    mixture = _mixture(inputs, data, roles, added, finetune, drawn, count, seed)
    source = supervised.mixture_of(mixture, size, _draw_seed(seed, draw), runtime.device)
    n_real = len(roles.base_train) + len(drawn)
    history = supervised.train(runtime, model, source, finetune.training, n_real, _draw_seed(seed, draw))
    _write(runtime, out, history, classifier=model)
    return {"images_added": sum(len(part.rows) for part in mixture if part.faces is not data), **history[-1]}


def combine(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    added: tuple[str, ...],
    network: LightCNNRecipe,
    generator: GeneratorRecipe,
    size: int,
    finetune: FinetuneRecipe,
    combine: CombineRecipe,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    count: int,
    seed: int,
) -> Metrics:
    """The expression head on five features, on the same training faces. Inputs: as finetune; finetune, compgan."""
    data, roles = _data(inputs)
    model = networks.load_classifier(inputs["finetune"], network, size, data.labels, runtime.device)
    features = _combiner(inputs, runtime, model, data, roles, generator, combine.references, size, seed)
    drawn = shots(data.labels, roles, shots_per_category, draw, seed, shots_per)
    mixture = _mixture(inputs, data, roles, added, finetune, drawn, count, seed)
    tables = [recognize.feature_table(runtime, features, part) for part in mixture]
    head, history = recognize.train_combined_head(runtime, model.expression, tables, combine, _draw_seed(seed, draw))
    _write(runtime, out, history, head=head)
    return history[-1]


def evaluate(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    generator: GeneratorRecipe | None,
    size: int,
    references: int,
    seed: int,
) -> Metrics:
    """The counts on the test rows. Inputs: faces, split, finetune; compgan and combine for the five-feature head."""
    data, roles = _data(inputs)
    logits_of = _logits_of(inputs, runtime, data, roles, network, generator, references, size, seed)
    return _count(runtime, out, logits_of, data, roles, recognize.Unseen(roles.test_base, roles.test_novel))


def validate(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    generator: GeneratorRecipe | None,
    size: int,
    references: int,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    seed: int,
) -> Metrics:
    """The counts on validation rows, to choose by: as evaluate, without a look at a test row. Inputs: as evaluate."""
    data, roles = _data(inputs)
    rows = recognize.validation_rows(roles, shots(data.labels, roles, shots_per_category, draw, seed, shots_per))
    logits_of = _logits_of(inputs, runtime, data, roles, network, generator, references, size, seed)
    return _count(runtime, out, logits_of, data, roles, rows)


def pictures(
    inputs: Inputs, out: Path, runtime: Runtime, *, size: int, generator: GeneratorRecipe, rows: int, seed: int
) -> Metrics:
    """The grid of edited faces and the loss curves.

    Inputs: faces, split, compgan, and every other stage that has a history.
    """
    if runtime.rank == 0:
        data, roles = _data(inputs)
        gan = networks.load_gan(inputs["compgan"], generator, runtime.device)
        sampler = TupleSampler(data.labels, roles.base_train, seed + 2, 0.0)
        numbers = np.arange(rows)
        tuples = gan_training.tuples_of(data, sampler, size, seed + 2, runtime.device)
        quality_of.draw_grid(gan, tuples(numbers), sampler.batch(0, rows), data.labels, out / "faces.png")
        histories = {name: path / "history.json" for name, path in inputs.items()}
        read = {name: json.loads(path.read_text()) for name, path in histories.items() if path.exists()}
        loss_curves(read, out / "curves.png")
    return {}


def _data(inputs: Inputs) -> tuple[Faces, Split]:
    data = Faces.open(inputs["faces"])
    return data, Split.load(inputs["split"] / "split.json", data.labels)


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
    _write(runtime, out, history, classifier=model)
    return history[-1]


def _draw_seed(seed: int, draw: int) -> int:
    """Fine-tuning draws its batches anew for each draw of the shots."""
    return seed + 1000 * (draw + 1)


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
        if kind == "real":
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


def _combiner(
    inputs: Inputs,
    runtime: Runtime,
    model: FaceClassifier,
    data: Faces,
    roles: Split,
    generator: GeneratorRecipe,
    references: int,
    size: int,
    seed: int,
) -> Callable[[Faces, Rows], Tensor]:
    """features(faces, rows) -> the concatenated features of plain and turned faces, on this worker alone."""
    g_pose = networks.load_gan(inputs["compgan"], generator, runtime.device).pose
    bank = recognize.load_bank(data, recognize.pose_bank(data.labels, roles, references, seed), size, runtime.device)

    def features(faces: Faces, rows: Rows) -> Tensor:
        return recognize.combined_features(model, g_pose, synthesize.load(faces, rows, size, runtime.device), bank)

    return features


def _logits_of(
    inputs: Inputs,
    runtime: Runtime,
    data: Faces,
    roles: Split,
    network: LightCNNRecipe,
    generator: GeneratorRecipe | None,
    references: int,
    size: int,
    seed: int,
) -> Callable[[Rows], Tensor]:
    """logits_of(rows) -> (n, expressions), of the fine-tuned classifier or, given a generator, of its combined head."""
    model = networks.load_classifier(inputs["finetune"], network, size, data.labels, runtime.device)
    if generator is None:
        return lambda rows: model(synthesize.load(data, rows, size, runtime.device)).expression
    features = _combiner(inputs, runtime, model, data, roles, generator, references, size, seed)
    width = model.expression.in_features * (1 + len(data.labels.poses))
    head = networks.load(
        nn.Linear(width, len(data.labels.expressions)), inputs["combine"] / "head.safetensors", runtime.device
    )
    return lambda rows: head(features(data, rows))


def _count(
    runtime: Runtime,
    out: Path,
    logits_of: Callable[[Rows], Tensor],
    data: Faces,
    roles: Split,
    unseen: recognize.Unseen,
) -> Metrics:
    counts = recognize.count(runtime, logits_of, data.labels, roles, unseen)
    if runtime.rank == 0:
        np.savez(out / "confusion.npz", **counts._asdict())
        (out / "expressions.json").write_text(json.dumps(data.labels.expressions))
    return recognize.summary(counts)


def _write(runtime: Runtime, out: Path, history: list[dict[str, float]], **modules: nn.Module) -> None:
    """Weights and history, on rank 0."""
    if runtime.rank == 0:
        for name, module in modules.items():
            save_state(out / f"{name}.safetensors", module.state_dict())
        (out / "history.json").write_text(json.dumps(history))
