"""The supervised splits of section 5.1 have the paper's counts."""

import numpy as np
import pytest
from designs import complete

from compgan_core.data.labels import Labels
from compgan_core.data.proof import prove_supervised
from compgan_core.data.supervised import ROLES, make_supervised_split, supervised_recipe
from compgan_core.errors import ConfigurationError, DataError

FER2013 = (4953, 547, 5121, 8989, 6077, 4002, 6198)
"""Faces of each expression, by the contest's report."""


def sizes(split):
    return tuple(len(getattr(split, role)) for role in ROLES)


def labels_of(identity, pose, expression, partition=None):
    n = len(expression)
    return Labels.from_names(
        identity, pose, expression, [""] * n, np.zeros(n), [f"{i:06d}" for i in range(n)], partition
    )


def jaffe():
    """213 faces: three of each of ten women in each of seven expressions, and three women with one more."""
    people, expressions = [f"K{i}" for i in range(10)], ["AN", "DI", "FE", "HA", "NE", "SA", "SU"]
    faces = [(i, e) for i in people for e in expressions for _ in range(3)] + [(i, "SA") for i in people[:3]]
    return labels_of([i for i, _ in faces], ["front"] * 213, [e for _, e in faces])


def test_fer2013_is_divided_as_its_contest_did():
    expressions = [f"e{i}" for i, count in enumerate(FER2013) for _ in range(count)]
    rng = np.random.default_rng(0)
    sides = rng.permutation(np.repeat(["train", "validation", "test"], [28_709, 3_589, 3_589]))
    labels = labels_of([""] * 35_887, [""] * 35_887, expressions, sides)
    split = make_supervised_split(labels, supervised_recipe("partition"))
    assert sizes(split) == (28_709, 3_589, 3_589)
    assert all((labels.partition[getattr(split, role)] == role).all() for role in ROLES)
    assert prove_supervised(labels, split).untrained == ()


@pytest.mark.parametrize("seed", range(5))
def test_jaffe_is_120_23_70_with_one_test_face_of_every_person_and_class(seed):
    labels = jaffe()
    split = make_supervised_split(labels, supervised_recipe("jaffe", seed))
    assert sizes(split) == (120, 23, 70)
    assert len({*zip(labels.identity[split.test], labels.expression[split.test], strict=True)}) == 70
    validated = np.bincount(labels.expression[split.validation])
    assert validated.min() >= 3 and validated.max() <= 4
    other = make_supervised_split(labels, supervised_recipe("jaffe", seed + 1))
    assert not np.array_equal(split.test, other.test)


def test_f2ed_is_175000_and_44719_of_its_219719_faces():
    rng = np.random.default_rng(0)
    names = [f"n{i:03d}" for i in range(119)]
    columns = [np.array(names[:count])[rng.integers(count, size=219_719)] for count in (119, 4, 54)]
    labels = labels_of(*(column.tolist() for column in columns))
    split = make_supervised_split(labels, supervised_recipe("f2ed"))
    assert sizes(split) == (175_000, 0, 44_719)
    assert max(prove_supervised(labels, split).roles["test"].imbalance.values()) < 1


def test_celeba_holds_out_a_tenth_of_the_faces_of_people_who_all_train():
    labels = labels_of([f"{i // 20:04d}" for i in range(2000)], [""] * 2000, [""] * 2000)
    split = make_supervised_split(labels, supervised_recipe("celeba"))
    assert sizes(split) == (1800, 0, 200) and np.bincount(labels.identity[split.test]).tolist() == [2] * 100


def test_amounts_are_shares_or_numbers():
    labels = complete(5, 4, 5)
    for test, validation in (("0.3", "0.1"), ("30", "7")):
        recipe = supervised_recipe("random", overrides={"test": test, "validation": validation})
        assert sizes(make_supervised_split(labels, recipe)) == (63, 7, 30)


def test_frames_of_a_recording_can_be_kept_together():
    labels = complete(6, 3, 6, frames=4)
    recipe = supervised_recipe("random", overrides={"group_by_sequence": "true"})
    assert prove_supervised(labels, make_supervised_split(labels, recipe)).leaked == 0
    assert prove_supervised(labels, make_supervised_split(labels, supervised_recipe("random"))).leaked > 0


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("partition", {}, "the partition split needs faces with an expression and a partition of the source's own"),
        ("jaffe", {}, "one face of every person is kept to test the expression 'e00', and none is left to train it"),
        ("random", {"test": "300"}, "test is 300, and there are 6 faces, some of which must train: use fewer"),
        ("random", {"test": "0"}, "the random split has no face to test on"),
    ],
)
def test_what_the_data_lacks_is_said(name, overrides, message):
    with pytest.raises(DataError, match=message):
        make_supervised_split(complete(2, 1, 3), supervised_recipe(name, overrides=overrides))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("jafe", {}, "there is no supervised split 'jafe': did you mean jaffe"),
        ("random", {"tests": "1"}, "a supervised split has no 'tests': did you mean test"),
        ("random", {"test": "-1"}, "test='-1': Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_allowed(name, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        supervised_recipe(name, overrides=overrides)
