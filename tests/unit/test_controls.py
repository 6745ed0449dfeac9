"""The controls of the table: what they add, and where they are refused."""

import numpy as np
import pytest
import torch
from test_study import dataset
from test_views import make_labels

from compgan_core import synthesize
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.errors import ConfigurationError, DataError
from compgan_core.randomness import generator
from compgan_core.training.runtime import Local
from orchestrator.study import study_of

LABELS = make_labels()


@pytest.mark.parametrize("task", ["ER-FP", "ER-ZP"])
def test_mirrored_faces_are_base_faces_of_the_other_side_turned_over_and_called_novel(tmp_path, task):
    split = make_split(LABELS, SplitRecipe(task=task))
    plan = synthesize.plan_mirrored(LABELS, split, 5, 0, 0)
    assert len(np.unique(plan.source)) == 5
    assert np.isin(plan.source, split.base_train).all()
    assert {LABELS.poses[p] for p in LABELS.pose[plan.source]} == {"half_right"}
    assert {LABELS.poses[p] for p in plan.labels.pose} == {"half_left"} == set(split.novel_categories)
    for kept in ("expression", "identity"):
        assert np.array_equal(plan.labels.codes(kept), LABELS.codes(kept)[plan.source])
    longer = synthesize.plan_mirrored(LABELS, split, 9, 0, 0)
    assert np.array_equal(longer.source[longer.labels.frame < 5], plan.source)
    images = generator(0, "images").integers(0, 256, (len(LABELS), 8, 8, 3), dtype=np.uint8)
    write_cache(images, LABELS, tmp_path)
    made = synthesize.synthesize(Local(), synthesize.mirrored, Faces.open(tmp_path), plan, 8)
    assert np.array_equal(made, images[plan.source][:, :, ::-1])


@pytest.mark.parametrize("task", ["ER-SS", "ER-FE", "ER-FID"])
def test_there_is_nothing_to_mirror_where_no_pose_is_novel(task):
    with pytest.raises(DataError, match="leave 'mirrored' out"):
        synthesize.plan_mirrored(LABELS, make_split(LABELS, SplitRecipe(task=task)), 5, 0, 0)


@pytest.mark.parametrize(
    ("task", "poses"), [("ER-FE", ("front", "half_left", "half_right")), ("ER-FP", ("front", "half_left"))]
)
def test_a_study_refuses_mirrored_faces_before_anything_runs(task, poses):
    settings = {"variants": '["plain", "mirrored"]'}
    study_of(dataset(poses=("front", "half_left", "half_right")), "tiny", "ER-FP", 1, 0, settings)
    with pytest.raises(ConfigurationError, match="leave it out of variants"):
        study_of(dataset(poses=poses), "tiny", task, 1, 0, settings)


def test_mirroring_twice_is_nothing():
    faces = torch.rand(2, 3, 4, 4)
    assert torch.equal(synthesize.mirrored(synthesize.mirrored(faces, None, None), None, None), faces)
    assert [synthesize.mirror_of(p) for p in ("half_left", "full_right", "bird")] == ["half_right", "full_left", "bird"]
