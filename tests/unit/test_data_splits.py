from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from designs import complete

from compgan_core.data.proof import check_shots, leaked
from compgan_core.data.shots import shots
from compgan_core.data.splits import FEW_SHOT_TASKS, ROLES, Split, SplitRecipe, Task, make_split
from compgan_core.errors import ConfigurationError, DataError
from compgan_core.recipe import make_recipe

TASKS = get_args(Task)
BASE = ("base_train", "base_validation", "test_base")


def values(labels, attribute, rows):
    return set(labels.codes(attribute)[rows].tolist())


def test_roles_have_the_shares_that_the_recipe_asks_for():
    labels = complete(20, 4, 10)
    split = make_split(labels, SplitRecipe(task="ER-FID", validation_fraction=0.25))
    assert [len(getattr(split, role)) for role in ROLES] == [384, 128, 128, 128, 32]


@pytest.mark.parametrize(
    ("task", "preset", "novel", "base_train", "test_base"),
    [
        ("ER-FE", "paper", 11, 14_737, 4_094),  # of 43 base expressions x 119 x 4; a tenth of the rest validates
        ("ER-FID", "paper", 24, 14_774, 4_104),  # 20% of 119 is 23.8
        ("ER-ZID", "f2ed", 21, 16_934, 4_234),  # 98 base identities, as in section 5.2, and 80.0% of their faces
        ("ER-ZP", "f2ed", 1, 15_422, 3_856),
    ],
)
def test_a_complete_table_of_the_papers_size_has_its_categories_and_shares(task, preset, novel, base_train, test_base):
    labels = complete(119, 4, 54)
    split = make_split(labels, make_recipe(preset, task).split)
    assert len(split.novel_categories) == novel
    assert (len(split.base_train), len(split.test_base)) == (base_train, test_base)


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
    with pytest.raises(DataError, match="ER-SS needs base faces of at least two .*, and there is only"):
        make_split(complete(*size), SplitRecipe(task="ER-SS"))


def test_grouping_keeps_the_frames_of_a_recording_in_one_base_role():
    labels = complete(6, 3, 6, frames=4)
    split = make_split(labels, SplitRecipe(task="ER-SS", group_by_sequence=True))
    train, validation, test = (set(labels.sequence[getattr(split, role)].tolist()) for role in BASE)
    assert not train & test and not train & validation and not validation & test
    apart = make_split(labels, SplitRecipe(task="ER-SS"))
    assert leaked(labels, split.base_train, split.test_base) == 0
    assert 0 < leaked(labels, apart.base_train, apart.test_base) <= len(apart.test_base)


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
    rows = shots(labels, split, 2, draw=0, seed=0, per="category_x_expression")
    assert np.bincount(labels.expression[rows]).tolist() == [2] * 6


def test_shots_that_cannot_be_had_are_refused():
    labels = complete(10, 4, 6)
    with pytest.raises(DataError, match=r"999 shots were asked for, but the expression 'e\d+' ha\w+ only \d+ faces"):
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


@pytest.mark.parametrize("task", TASKS)
def test_data_without_identity_or_pose_is_told_to_use_a_supervised_split(task):
    labels = complete(1, 1, 7, frames=3)
    labels.identity[:] = labels.pose[:] = -1
    with pytest.raises(DataError, match=f"{task} needs .* no face says its identity: .* make a supervised split"):
        make_split(labels, SplitRecipe(task=task))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"task": "ER-FID", "novel_ids": 9}, "ER-FID sets 9 identities apart .* two for base at least, .* data has 10"),
        ({"task": "ER-FE", "novel_expressions": 6}, "ER-FE sets 6 expressions apart as novel"),
        ({"task": "ER-SS", "base_train_fraction": 0.9999}, "ER-SS would test no base face, of 240"),
    ],
)
def test_what_the_data_lacks_for_a_recipe_is_said(recipe, message):
    with pytest.raises(DataError, match=message):
        make_split(complete(10, 4, 6), SplitRecipe(**recipe))


def test_a_novel_category_that_cannot_both_train_and_test_is_named():
    labels = complete(4, 3, 3)
    alone = np.flatnonzero((labels.pose == 2) & (labels.identity == 0) & (labels.expression == 0))
    labels = labels.take(np.sort(np.append(np.flatnonzero(labels.pose != 2), alone)))
    with pytest.raises(DataError, match="the novel pose 'half_left' has too few faces: it needs two, one to test on"):
        make_split(labels, SplitRecipe(task="ER-FP"))


def test_the_novel_test_faces_of_er_fe_are_the_same_share_of_every_novel_expression():
    labels = complete(20, 4, 20)
    split = make_split(labels, SplitRecipe(task="ER-FE"))
    assert np.unique(labels.expression[split.test_novel], return_counts=True)[1].tolist() == [16] * 4


def test_shots_that_are_not_the_ones_promised_are_found():
    labels = complete(10, 4, 6)
    split = make_split(labels, SplitRecipe(task="ER-FE"))
    rows = shots(labels, split, 3, draw=0, seed=0)
    check_shots(labels, split, rows, 3, "category")
    for wrong in (rows[1:], np.append(rows[1:], split.test_novel[0]), np.append(rows[1:], rows[-1]), rows[:0]):
        with pytest.raises(DataError, match="draw the shots again"):
            check_shots(labels, split, wrong, 3, "category")
    with pytest.raises(DataError, match="are not 0 of each"):
        check_shots(labels, split, rows, 0, "category")
