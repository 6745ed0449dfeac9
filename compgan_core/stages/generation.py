"""Training generators, the faces they make, and how well they make them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from compgan_core import networks, synthesize
from compgan_core import quality as quality_of
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.shots import ShotsPer, shots
from compgan_core.data.tuples import TupleSampler
from compgan_core.losses import Weights
from compgan_core.nets.gan import GeneratorRecipe
from compgan_core.nets.judge import JudgeNetRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.pictures import loss_curves
from compgan_core.recipe import JudgeRecipe
from compgan_core.rivals import RivalRecipe, make_rival
from compgan_core.rivals.base import Domain
from compgan_core.stages.inputs import Inputs, Metrics, open_data, write_result
from compgan_core.training import classifier as supervised
from compgan_core.training import gan as gan_training
from compgan_core.training import rivals as rivals_training
from compgan_core.training.classifier import FaceReader
from compgan_core.training.gan import CompGANRecipe
from compgan_core.training.runtime import Runtime, save_state
from compgan_core.variants import KINDS


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
    data, roles = open_data(inputs)
    f_cls = networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device)
    gan = networks.comp_gan(compgan.generator, seed).to(runtime.device)
    discriminator = networks.discriminator(compgan.discriminator, size, seed).to(runtime.device)
    sampler = TupleSampler(data.labels, roles.base_train, seed, compgan.reference_mismatch)
    tuples = gan_training.tuples_of(data, sampler, size, seed, runtime.device, compgan.mirror)
    history = gan_training.train(
        runtime, gan, discriminator, f_cls, tuples, compgan, lambda_, mu, len(roles.base_train)
    )
    write_result(runtime, out, history, pose=gan.pose, exp=gan.exp, discriminator=discriminator)
    return {"tuples": sampler.count, **history[-1]}


def rival(inputs: Inputs, out: Path, runtime: Runtime, *, rival: RivalRecipe, size: int, seed: int) -> Metrics:
    """One of the generators that Comp-GAN is compared with, on D_base. Inputs: faces, split."""
    data, roles = open_data(inputs)
    made = make_rival(rival, Domain.of(data.labels, size), seed)
    for network in (made.kept, *made.networks.values()):
        network.to(runtime.device)
    sampler = TupleSampler(data.labels, roles.base_train, seed, rival.reference_mismatch)
    tuples = gan_training.tuples_of(data, sampler, size, seed, runtime.device)
    history = rivals_training.train(runtime, made, tuples, rival, len(roles.base_train))
    made.complete(
        runtime, lambda rows: synthesize.load(data, rows, size, runtime.device), data.labels, roles.base_train
    )
    write_result(runtime, out, history, kept=made.kept)
    return {"tuples": sampler.count, **history[-1]}


def judge(inputs: Inputs, out: Path, runtime: Runtime, *, judge: JudgeRecipe, size: int, seed: int) -> Metrics:
    """The judge, on half of the faces that do not test, degraded; it supervises nobody. Inputs: faces, split."""
    data, roles = open_data(inputs)
    model = networks.face_judge(judge.network, size, data.labels, seed).to(runtime.device)
    rows, others = quality_of.judge_rows(data.labels, roles, seed)
    source = supervised.epochs_of(data, rows, size, seed + 1, runtime.device)
    history = supervised.train(runtime, model, source, judge.training, len(rows), seed + 1)
    write_result(runtime, out, history, judge=model)
    return quality_of.ceiling(model, data, others, size, runtime.device)


def quality(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    network: LightCNNRecipe,
    size: int,
    generator: GeneratorRecipe | RivalRecipe,
    judge: JudgeRecipe,
    seed: int,
) -> Metrics:
    """What the judge and F_cls read in edits of base training faces, and how far they are from the truth.

    Inputs: faces, split, classifier, judge; compgan or rival. Writes preservation.json (Figs. 13-15), readings.npz
    (what was read in each edit) and identities.safetensors (features for Fig. 18).
    """
    data, roles = open_data(inputs)
    editors = networks.load_editors(inputs, generator, size, data.labels, runtime.device)
    readers: dict[str, FaceReader] = {
        "judge": networks.load_judge(inputs["judge"], judge.network, size, data.labels, runtime.device),
        "f_cls": networks.load_classifier(inputs["classifier"], network, size, data.labels, runtime.device),
    }
    seen, _ = quality_of.judge_rows(data.labels, roles, seed)
    sampler = quality_of.Unseen(TupleSampler(data.labels, roles.base_train, seed + 1, 0.0), seen, judge.edits)
    tuples = gan_training.tuples_of(data, sampler, size, seed + 1, runtime.device)
    edits = quality_of.read_edits(runtime, editors, readers, tuples, judge.edits)
    if runtime.rank == 0:
        (out / "preservation.json").write_text(json.dumps(quality_of.preservation(edits, data.labels), indent=1))
        np.savez_compressed(out / "readings.npz", **quality_of.readings(edits))  # type: ignore[arg-type]
        rows = np.setdiff1d(roles.base_train, seen)
        features = quality_of.identity_features(editors, readers["f_cls"], data, rows, size, seed, runtime.device)
        save_state(out / "identities.safetensors", features)
    return quality_of.summary(edits)


def synthesis(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    kind: str,
    generator: GeneratorRecipe | RivalRecipe | None,
    size: int,
    shots_per_category: int,
    shots_per: ShotsPer,
    draw: int,
    pool: int,
    seed: int,
) -> Metrics:
    """A pool of faces of one kind for each category. Inputs: faces, split; compgan or rival, for edited faces."""
    data, roles = open_data(inputs)
    drawn = shots(data.labels, roles, shots_per_category, draw, seed, shots_per)
    make: synthesize.Make = synthesize.mirrored if kind == "mirrored" else synthesize.degraded(seed)
    if kind == "mirrored":
        edits = synthesize.plan_mirrored(data.labels, roles, pool, seed, draw)
    else:
        edits = synthesize.plan_edits(kind, KINDS[kind].edits, data.labels, roles, drawn, pool, seed, draw)
    if generator:
        editors = networks.load_editors(inputs, generator, size, data.labels, runtime.device)
        make = synthesize.edited(editors[kind], data, size)
        if isinstance(generator, GeneratorRecipe) and generator.shared:
            edits = synthesize.all_of_reference(edits, data.labels)
    images = synthesize.synthesize(runtime, make, data, edits, size)
    if runtime.rank == 0:
        write_cache(images, edits.labels, out)
    return {"faces": len(images)}


def fidelity(inputs: Inputs, out: Path, runtime: Runtime, *, judge: JudgeNetRecipe, size: int) -> Metrics:
    """How often the judge reads in synthesized faces what their labels say. Inputs: faces, judge, synthesis."""
    made = Faces.open(inputs["synthesis"], like=Faces.open(inputs["faces"]).labels)
    reader = networks.load_judge(inputs["judge"], judge, size, made.labels, runtime.device)
    return quality_of.fidelity(runtime, reader, made, size)


def pictures(
    inputs: Inputs,
    out: Path,
    runtime: Runtime,
    *,
    size: int,
    generator: GeneratorRecipe | RivalRecipe,
    rows: int,
    seed: int,
) -> Metrics:
    """The grid of edited faces and the loss curves.

    Inputs: faces, split, compgan or rival, and every other stage that has a history.
    """
    if runtime.rank == 0:
        data, roles = open_data(inputs)
        editors = networks.load_editors(inputs, generator, size, data.labels, runtime.device)
        sampler = TupleSampler(data.labels, roles.base_train, seed + 2, 0.0)
        numbers = np.arange(rows)
        tuples = gan_training.tuples_of(data, sampler, size, seed + 2, runtime.device)
        quality_of.draw_grid(editors, tuples(numbers), sampler.batch(0, rows), data.labels, out / "faces.png")
        histories = {name: path / "history.json" for name, path in inputs.items()}
        read = {name: json.loads(path.read_text()) for name, path in histories.items() if path.exists()}
        loss_curves(read, out / "curves.png")
    return {}
