from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from designs import complete, with_holes
from hypothesis import given, settings
from hypothesis import strategies as st

from compgan_core.data.labels import ATTRIBUTES
from compgan_core.data.splits import FEW_SHOT_TASKS, ROLES, Split, SplitRecipe, Task, make_split, shots
from compgan_core.errors import ConfigurationError, DataError

TASKS = get_args(Task)
BASE = ("base_train", "base_validation", "test_base")


def values(labels, attribute, rows):
    return set(labels.codes(attribute)[rows].tolist())


@settings(deadline=None)
@given(with_holes(), st.sampled_from(TASKS), st.booleans(), st.integers(0, 5))
def test_every_split_is_disjoint_covers_the_data_and_keeps_novel_categories_out_of_base(labels, task, grouped, seed):
    try:
        split = make_split(labels, SplitRecipe(task=task, seed=seed, group_by_sequence=grouped))
    except (DataError, ConfigurationError):
        return  # too few categories or faces for this task
    roles = {role: set(getattr(split, role).tolist()) for role in ROLES}
    assert sum(map(len, roles.values())) == len(set().union(*roles.values()))
    attribute = split.novel_attribute
    usable = labels.codes(attribute) >= 0 if attribute else np.ones(len(labels), bool)
    assert set().union(*roles.values()) == set(np.flatnonzero(usable).tolist())
    base = np.concatenate([getattr(split, role) for role in BASE])
    for a in ATTRIBUTES:
        assert values(labels, a, split.base_train) == values(labels, a, base)
    if attribute:
        novel = {labels.names(attribute).index(name) for name in split.novel_categories}
        assert values(labels, attribute, split.test_novel) == values(labels, attribute, split.novel_pool) == novel
        assert not novel & values(labels, attribute, base)
    else:
        assert not roles["novel_pool"] and not roles["test_novel"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(15, 4, 10, 1), (7, 3, 9, 3)])
def test_roles_are_balanced_in_every_attribute_on_a_complete_design(task, size):
    labels = complete(*size)
    split = make_split(labels, SplitRecipe(task=task, seed=3))
    for role in ROLES:
        for attribute in ATTRIBUTES:
            counts = np.unique(labels.codes(attribute)[getattr(split, role)], return_counts=True)[1]
            assert np.ptp(counts) <= 2 if len(counts) else role in ("novel_pool", "test_novel")


def test_roles_have_the_shares_that_the_recipe_asks_for():
    labels = complete(20, 4, 10)
    split = make_split(labels, SplitRecipe(task="ER-FID", validation_fraction=0.25))
    assert [len(getattr(split, role)) for role in ROLES] == [384, 128, 128, 128, 32]


def test_a_fifth_of_54_expressions_is_11_novel_and_43_base():
    labels = complete(3, 2, 54)
    split = make_split(labels, SplitRecipe(task="ER-FE"))
    assert len(split.novel_categories) == 11 and len(values(labels, "expression", split.base_train)) == 43


def test_a_split_is_a_function_of_its_recipe():
    labels = complete(10, 4, 6)
    one, same, other = (make_split(labels, SplitRecipe(task="ER-SS", seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(one.test_base, same.test_base) and not np.array_equal(one.test_base, other.test_base)


@pytest.mark.parametrize(("few", "zero"), [("ER-FID", "ER-ZID"), ("ER-FP", "ER-ZP")])
def test_few_and_zero_shot_tasks_share_their_rows(few, zero):
    labels = complete(10, 4, 6)
    a, b = (make_split(labels, SplitRecipe(task=task)) for task in (few, zero))
    assert all(np.array_equal(getattr(a, role), getattr(b, role)) for role in ROLES)


def test_the_novel_pose_is_the_left_one_or_must_be_named():
    labels = complete(4, 4, 4)
    assert make_split(labels, SplitRecipe(task="ER-FP")).novel_categories == ("half_left",)
    assert make_split(labels, SplitRecipe(task="ER-FP", novel_pose="bird")).novel_categories == ("bird",)
    with pytest.raises(ConfigurationError, match="novel_pose is 'fronta'.*did you mean front"):
        make_split(labels, SplitRecipe(task="ER-FP", novel_pose="fronta"))
    renamed = replace(labels, poses=("a", "b", "c", "d"))
    with pytest.raises(ConfigurationError, match="say which one is novel with novel_pose, one of a, b, c, d"):
        make_split(renamed, SplitRecipe(task="ER-ZP"))


def test_a_misspelt_task_is_answered_with_all_six():
    with pytest.raises(ConfigurationError, match="'ER-FX'.*ER-SS, ER-FID, ER-ZID, ER-FP, ER-ZP, ER-FE"):
        SplitRecipe(task="ER-FX")


@pytest.mark.parametrize("size", [(5, 1, 5), (5, 4, 1)])
def test_one_pose_or_one_expression_is_a_data_error(size):
    with pytest.raises(DataError, match="training needs at least two"):
        make_split(complete(*size), SplitRecipe(task="ER-SS"))


def test_grouping_keeps_the_frames_of_a_recording_in_one_base_role():
    labels = complete(6, 3, 6, frames=4)
    split = make_split(labels, SplitRecipe(task="ER-SS", group_by_sequence=True))
    train, validation, test = (set(labels.sequence[getattr(split, role)].tolist()) for role in BASE)
    assert not train & test and not train & validation and not validation & test
    apart = make_split(labels, SplitRecipe(task="ER-SS"))
    assert set(labels.sequence[apart.base_train]) & set(labels.sequence[apart.test_base])


@pytest.mark.parametrize("task", FEW_SHOT_TASKS)
def test_shots_are_k_of_each_novel_category_from_the_pool_and_nested(task):
    labels = complete(15, 4, 10)
    split = make_split(labels, SplitRecipe(task=task))
    previous = set()
    for k in (1, 3, 5):
        rows = shots(labels, split, k, draw=7, seed=0)
        counts = np.unique(labels.codes(split.novel_attribute)[rows], return_counts=True)[1]
        assert counts.tolist() == [k] * len(split.novel_categories)
        assert previous < set(rows.tolist()) <= set(split.novel_pool.tolist())
        previous = set(rows.tolist())
    assert not np.array_equal(rows, shots(labels, split, 5, draw=8, seed=0))


def test_shots_are_spread_over_the_other_attributes():
    labels = complete(20, 4, 20)
    split = make_split(labels, SplitRecipe(task="ER-FE"))
    rows = shots(labels, split, 1, draw=0, seed=0)
    assert len(values(labels, "pose", rows)) == len(values(labels, "identity", rows)) == len(rows) == 4


def test_shots_per_expression_show_every_expression_of_the_novel_pose():
    labels = complete(10, 4, 6)
    split = make_split(labels, SplitRecipe(task="ER-FP"))
    rows = shots(labels, split, 2, draw=0, seed=0, per_expression=True)
    assert np.bincount(labels.expression[rows]).tolist() == [2] * 6


def test_shots_that_cannot_be_had_are_refused():
    labels = complete(10, 4, 6)
    with pytest.raises(DataError, match=r"999 shots were asked for, but a novel category has only \d+ faces"):
        shots(labels, make_split(labels, SplitRecipe(task="ER-FE")), 999, draw=0, seed=0)
    with pytest.raises(ConfigurationError, match="ER-ZID has no shots, but 1 were asked for"):
        shots(labels, make_split(labels, SplitRecipe(task="ER-ZID")), 1, draw=0, seed=0)


def test_a_saved_split_means_the_same_faces_in_another_order_of_rows(tmp_path):
    labels = complete(8, 4, 6)
    split = make_split(labels, SplitRecipe(task="ER-FE", seed=5))
    split.save(tmp_path / "split.json", labels)
    shuffled = labels.take(np.random.default_rng(0).permutation(len(labels)))
    loaded = Split.load(tmp_path / "split.json", shuffled)
    assert loaded.recipe == split.recipe and loaded.novel_categories == split.novel_categories
    for role in ROLES:
        assert set(shuffled.key[getattr(loaded, role)]) == set(labels.key[getattr(split, role)])


def test_a_split_of_other_data_is_refused(tmp_path):
    labels = complete(8, 4, 6)
    make_split(labels, SplitRecipe(task="ER-SS")).save(tmp_path / "split.json", labels)
    with pytest.raises(DataError, match="not among the faces"):
        Split.load(tmp_path / "split.json", complete(7, 4, 6))
    with pytest.raises(DataError, match="does not cover the data"):
        Split.load(tmp_path / "split.json", complete(9, 4, 6))


def test_check_finds_a_face_with_two_roles_and_a_novel_face_among_the_base():
    labels = complete(8, 4, 6)
    split = make_split(labels, SplitRecipe(task="ER-FE"))
    with pytest.raises(DataError, match="two roles"):
        replace(split, test_base=np.append(split.test_base, split.base_train[0])).check(labels)
    moved = replace(split, base_train=np.append(split.base_train, split.novel_pool[0]), novel_pool=split.novel_pool[1:])
    with pytest.raises(DataError, match="mixes base and novel"):
        moved.check(labels)
