"""What the classifier sees of a face, against the same features computed one by one."""

import numpy as np
import pytest
import torch

from compgan_core import networks, views
from compgan_core.data.labels import Labels
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.errors import DataError
from compgan_core.nets.gan import GeneratorRecipe
from compgan_core.nets.lightcnn import LightCNNRecipe
from compgan_core.randomness import generator

SIZE, POSES = 16, ("front", "half_left", "half_right")


def make_labels():
    """4 identities x 3 poses x 3 expressions x 3 frames."""
    grid = np.stack(np.meshgrid(range(4), range(3), range(3), range(3), indexing="ij"), -1).reshape(-1, 4)
    names = [f"i{v}" for v in grid[:, 0]], [POSES[v] for v in grid[:, 1]]
    expressions = [("joy", "neutral", "sad")[v] for v in grid[:, 2]]
    keys = [f"{row}" for row in map(tuple, grid.tolist())]
    return Labels.from_names(*names, expressions, sequence=[""] * len(grid), frame=grid[:, 3], key=keys)


@pytest.fixture(scope="module")
def built():
    labels = make_labels()
    network = LightCNNRecipe(channels=(2, 2, 2, 2), blocks=(0, 0, 0, 0), feature=4)
    classifier = networks.face_classifier(network, SIZE, labels, 0).eval()
    g_pose = networks.comp_gan(GeneratorRecipe(width=2, downs=2, residual_blocks=0, skips=1), 0).pose.eval()
    noise = torch.from_numpy(generator(0, "faces").uniform(-1, 1, (11, 3, SIZE, SIZE))).float()
    return classifier, g_pose, noise[:5], noise[5:].view(3, 2, 3, SIZE, SIZE)


def see(built, kind, bank=None, **more):
    classifier, g_pose, faces, full = built
    with torch.inference_mode():
        return views.View(kind, classifier, g_pose, full if bank is None else bank, POSES, **more)(faces)


def turned(built, pose):
    classifier, g_pose, faces, bank = built
    with torch.inference_mode():
        return sum(classifier.features(g_pose(faces, r.expand_as(faces))) for r in bank[pose]) / len(bank[pose])


def test_each_view_is_the_features_that_its_name_says(built):
    plain = built[0].features(built[2])
    torch.testing.assert_close(see(built, "plain"), plain)
    torch.testing.assert_close(see(built, "front"), turned(built, 0))
    torch.testing.assert_close(see(built, "combined"), torch.cat([plain, *(turned(built, p) for p in range(3))], 1))
    for kind in ("plain", "front", "combined"):
        assert see(built, kind).shape[1] == 4 * views.width(kind, POSES)


def test_a_pose_that_no_training_face_has_repeats_the_plain_feature(built):
    lacking = built[3].clone()
    lacking[1] = torch.nan
    seen = see(built, "combined", lacking).split(4, dim=1)
    torch.testing.assert_close(seen[2], seen[0])
    torch.testing.assert_close(seen[3], turned(built, 2))


def test_a_face_in_the_asked_pose_may_stay_as_it_is(built):
    classifier, _, faces, _ = built
    posed = classifier(faces).pose.argmax(1)
    seen = see(built, "combined", keep_posed=True).split(4, dim=1)
    for pose in range(3):
        kept = (seen[1 + pose] == seen[0]).all(1)
        assert torch.equal(kept, posed == pose)


def test_references_are_neutral_training_faces_that_test_labels_do_not_choose():
    labels = make_labels()
    split = make_split(labels, SplitRecipe(task="ER-ZP", seed=3))
    bank = views.pose_bank(labels, split, 2, 0).rows
    assert [len(rows) for rows in bank] == [2, 0, 2]  # no training face looks half left
    chosen = np.concatenate(bank)
    assert np.isin(chosen, split.base_train).all()
    assert (labels.expression[chosen] == labels.expressions.index("neutral")).all()
    unknown = labels.expression.copy()
    unknown[np.setdiff1d(np.arange(len(labels)), split.base_train)] = 0
    blind = Labels(**{**vars(labels), "expression": unknown})
    assert all(map(np.array_equal, bank, views.pose_bank(blind, split, 2, 0).rows))


def test_faces_are_not_turned_to_a_front_that_the_data_lacks(built):
    classifier, g_pose, _, bank = built
    with pytest.raises(DataError, match="leave the variant 'front' out"):
        views.View("front", classifier, g_pose, bank, ("bird", "left", "right"))
