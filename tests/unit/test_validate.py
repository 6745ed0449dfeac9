"""Choosing without the test faces, and fine-tuning without added ones: the stages themselves, on drawn noise."""

import numpy as np
import pytest
import torch
from torch import nn

from compgan_core import networks, recognize, stages, views
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.labels import Labels
from compgan_core.data.shots import shots
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.errors import DataError
from compgan_core.nets.gan import GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.randomness import generator, seeded
from compgan_core.recognize import FinetuneRecipe
from compgan_core.training.classifier import ClassifierRecipe
from compgan_core.training.optim import ScheduleRecipe
from compgan_core.training.runtime import Local, load_state, save_state
from compgan_core.views import HeadRecipe

SIZE, STORED = 16, 18
NETWORK = LightCNNRecipe(channels=(2, 2, 2, 2), blocks=(0, 0, 0, 0), feature=4)
GENERATOR = GeneratorRecipe(width=2, downs=2, residual_blocks=0, skips=1)
SCHEDULE = ScheduleRecipe(steps=2, batch=8)
COMMON = {"network": NETWORK, "size": SIZE, "seed": 0}
SHOTS = {"shots_per_category": 2, "shots_per": "category", "draw": 0}


def make_faces(directory, kept=None):
    """4 identities x 3 poses x 5 expressions x 2 frames of noise, black but for the rows `kept`."""
    grid = np.stack(np.meshgrid(range(4), range(3), range(5), range(2), indexing="ij"), -1).reshape(-1, 4)
    labels = Labels.from_names(
        *([f"{name}{v}" for v in grid[:, i]] for i, name in enumerate("ipe")),
        sequence=[""] * len(grid),
        frame=grid[:, 3],
        key=[f"{row}" for row in map(tuple, grid.tolist())],
    )
    images = generator(0, "noise").integers(0, 256, (len(grid), STORED, STORED, 3), dtype=np.uint8)
    if kept is not None:
        images[np.setdiff1d(np.arange(len(grid)), kept)] = 0
    write_cache(images, labels, directory)
    return Faces.open(directory)


def split_of(faces, task="ER-FE", **recipe):
    pose = {"novel_pose": "p0"} if task in ("ER-FP", "ER-ZP") else {}
    return make_split(faces.labels, SplitRecipe(task=task, **pose, **recipe))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the stages before left: untrained networks, and six synthesized faces."""
    root = tmp_path_factory.mktemp("inputs")
    names = ("faces", "split", "classifier", "finetune", "compgan", "head", "synthesis-exp")
    paths = {name: root / name for name in names}
    for path in paths.values():
        path.mkdir()
    faces = make_faces(paths["faces"])
    split_of(faces).save(paths["split"] / "split.json", faces.labels)
    for seed, stage in enumerate(("classifier", "finetune")):
        state = networks.face_classifier(NETWORK, SIZE, faces.labels, seed).state_dict()
        save_state(paths[stage] / "classifier.safetensors", state)
    gan = networks.comp_gan(GENERATOR, 0)
    for name in ("pose", "exp"):
        save_state(paths["compgan"] / f"{name}.safetensors", getattr(gan, name).state_dict())
    with seeded(0, "head"):
        save_state(paths["head"] / "head.safetensors", nn.Linear(4 * NETWORK.feature, 5).state_dict())
    write_cache(faces.images(np.arange(6)), faces.labels.take(np.arange(6)), paths["synthesis-exp"])
    return paths


HEAD = HeadRecipe(schedule=SCHEDULE)
HEADS = [
    {"view": "plain", "generator": None, "head": None},
    {"view": "combined", "generator": GENERATOR, "head": HEAD},
]


@pytest.mark.parametrize("head", HEADS, ids=["plain", "five features"])
def test_validation_is_blind_to_every_face_but_its_own(inputs, tmp_path, head):
    faces = Faces.open(inputs["faces"])
    split = split_of(faces)
    drawn = shots(faces.labels, split, 2, 0, 0)
    base, novel = recognize.validation_rows(split, drawn)
    bank = views.pose_bank(faces.labels, split, 1, 0).rows if head["generator"] else []
    make_faces(tmp_path / "black", kept=np.concatenate([base, novel, *bank]))
    confusions = []
    for i, seen in enumerate((inputs["faces"], tmp_path / "black")):
        out = tmp_path / str(i)
        out.mkdir()
        metrics = stages.validate(inputs | {"faces": seen}, out, Local(), **COMMON, **head, **SHOTS)
        assert {"base", "novel", "novel_only", "harmonic", "pooled"} <= metrics.keys()
        confusions.append(dict(np.load(out / "confusion.npz")))
    assert confusions[0]["base"].sum() == len(base)
    assert confusions[0]["novel"].sum() == len(novel)
    assert all(np.array_equal(confusions[0][name], confusions[1][name]) for name in confusions[0])
    stages.evaluate(inputs, tmp_path, Local(), **COMMON, **head)
    assert np.load(tmp_path / "confusion.npz")["novel"].sum() == len(split.test_novel)


@pytest.mark.parametrize("task", ["ER-SS", "ER-FID", "ER-ZID", "ER-FP", "ER-ZP", "ER-FE"])
def test_validation_rows_neither_test_nor_train(inputs, task):
    labels = Faces.open(inputs["faces"]).labels
    split = split_of(Faces.open(inputs["faces"]), task)
    k = 2 if split.recipe.task in ("ER-FID", "ER-FP", "ER-FE") else 0
    drawn = shots(labels, split, k, 0, 0)
    base, novel = recognize.validation_rows(split, drawn)
    trained_or_tested = np.concatenate([split.base_train, drawn, split.test_base, split.test_novel])
    assert not np.intersect1d(np.concatenate([base, novel]), trained_or_tested).size
    assert len(novel) == len(split.novel_pool) - len(drawn)


def test_without_validation_rows_a_sentence_says_what_to_change(inputs):
    faces = Faces.open(inputs["faces"])
    with pytest.raises(DataError, match="keeps no base face for validation"):
        recognize.validation_rows(split_of(faces, validation_fraction=0), np.empty(0, np.int64))
    split = split_of(faces)
    with pytest.raises(DataError, match="are shots, so none validates: use fewer"):
        recognize.validation_rows(split, split.novel_pool)


def test_count_0_trains_as_if_no_image_were_added(inputs, tmp_path):
    finetune = FinetuneRecipe(training=ClassifierRecipe(schedule=SCHEDULE))
    made = []
    for i, added in enumerate(((), ("exp",), ("exp", "real"))):
        out = tmp_path / str(i)
        out.mkdir()
        settings = {**COMMON, **SHOTS, "finetune": finetune, "count": 0, "added": added, "tuning": 0}
        assert stages.finetune(inputs, out, Local(), **settings)["images_added"] == 0
        stages.head(inputs | {"finetune": out}, out, Local(), **settings, **HEADS[1])
        made.append([load_state(out / f"{name}.safetensors")[0] for name in ("classifier", "head")])
    for other in made[1:]:
        for ours, theirs in zip(made[0], other, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
