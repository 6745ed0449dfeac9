"""What holds for a split of any table of labels, or the sentence that says why there is none."""

import re

import numpy as np
from designs import complete
from hypothesis import given, settings
from hypothesis import strategies as st

from compgan_core.data.labels import ATTRIBUTES, Labels
from compgan_core.data.proof import prove_split, prove_supervised
from compgan_core.data.shots import shots
from compgan_core.data.splits import FEW_SHOT_TASKS, NOVEL_ATTRIBUTE, ROLES, SplitRecipe, make_split
from compgan_core.data.supervised import ROLES as SIDES
from compgan_core.data.supervised import SupervisedRecipe, make_supervised_split
from compgan_core.errors import ConfigurationError, DataError

BASE, NOVEL = ("base_train", "base_validation", "test_base"), ("novel_pool", "test_novel")
SEEDS = st.integers(0, 99)


@st.composite
def tables(draw):
    """Faces with random labels, of few or many categories, even or not, some missing, in clips; often too few."""
    rng, rich = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([True, True, True, False]))
    n, skew = draw(st.integers(60, 200) if rich else st.integers(0, 60)), rng.choice([1, 2])
    missing = rng.choice([0, 0.1] if rich else [0, 0.1, 0.9])

    def column(names):
        drawn = np.array(names, dtype=object)[(len(names) * rng.random(n) ** skew).astype(int)]
        return np.where(rng.random(n) < missing, "", drawn).tolist()

    def some(letter, most):
        return [f"{letter}{i}" for i in range(rng.integers(min(4, most) if rich else 1, most + 1))]

    poses = ["front", "half_left", "half_right", "bird", ""][: rng.integers(3 if rich else 1, 6)]
    clips, sides = column([*some("s", 60), ""]), column(["train", "validation", "test", ""])
    keys = [f"k{i:03d}" for i in range(n)]
    return Labels.from_names(
        column(some("i", 12)), column(poses), column(some("e", 8)), clips, np.arange(n), keys, sides
    )


recipes = st.builds(
    SplitRecipe,
    task=st.sampled_from([*NOVEL_ATTRIBUTE]),
    seed=SEEDS,
    novel_fraction=st.sampled_from([0.2, 0.5]),
    novel_ids=st.sampled_from([None, 1, 3]),
    novel_expressions=st.sampled_from([None, 1, 2]),
    base_train_fraction=st.sampled_from([0.5, 0.8]),
    validation_fraction=st.sampled_from([0, 0.1, 0.4]),
    group_by_sequence=st.booleans(),
)


def values(labels, attribute, rows):
    return set(labels.codes(attribute)[rows].tolist())


@settings(deadline=None, max_examples=300)
@given(tables(), recipes, st.sampled_from([1, 3, 5]), st.sampled_from(["category", "category_x_expression"]), SEEDS)
def test_a_split_is_sound_or_a_sentence_says_what_the_data_lacks(labels, recipe, k, per, seed):
    try:
        split = make_split(labels, recipe)
    except (DataError, ConfigurationError) as error:
        assert recipe.task in str(error) or "novel" in str(error)
        assert "make the split again" not in str(error)  # a defect of the split, not of the data
        if few := re.match(r"the novel (\w+) '(\w+)' has too few", str(error)):
            attribute, name = few.groups()
            grouped = recipe.group_by_sequence
            assert units(labels, attribute, name, grouped) == 1 or (grouped and attribute == "expression")
        return
    attribute, roles = split.novel_attribute, {role: getattr(split, role) for role in ROLES}
    rows = np.concatenate([*roles.values()])
    usable = (labels.expression >= 0) & (labels.codes(attribute or "expression") >= 0)
    assert sorted(rows.tolist()) == np.flatnonzero(usable).tolist()  # every face that can be used, once
    base = np.concatenate([roles[role] for role in BASE])
    assert all(values(labels, a, roles["base_train"]) == values(labels, a, base) for a in ATTRIBUTES)
    assert len(roles["test_base"])
    if recipe.group_by_sequence:
        for part in (BASE, NOVEL):
            clips = [{*zip(labels.identity[r], labels.sequence[r], strict=True)} for r in map(roles.get, part)]
            clips = [{clip for clip in some if clip[1]} for some in clips]
            assert sum(map(len, clips)) == len(set().union(*clips))
    novel = {labels.names(attribute).index(name) for name in split.novel_categories} if attribute else set()
    if attribute:
        assert values(labels, attribute, split.test_novel) == values(labels, attribute, split.novel_pool) == novel
        assert novel and not novel & values(labels, attribute, base)
        count = {"identity": recipe.novel_ids, "pose": 1, "expression": recipe.novel_expressions}[attribute]
        assert len(novel) == len(split.novel_categories) == (count or len(novel))
    else:
        assert not len(split.novel_pool) and not len(split.test_novel)
    if recipe.task in FEW_SHOT_TASKS:
        check_shots_of(labels, split, k, per, seed)
    prove_split(labels, split, rows[:0], 0, per)
    again = make_split(labels, recipe)
    assert all(np.array_equal(getattr(again, role), roles[role]) for role in ROLES)


def units(labels, attribute, name, grouped):
    """How many faces, or recordings, of a category can be used."""
    rows = np.flatnonzero((labels.codes(attribute) == labels.names(attribute).index(name)) & (labels.expression >= 0))
    clips = [(i, s or f"alone {n}") for n, i, s in zip(rows, labels.identity[rows], labels.sequence[rows], strict=True)]
    return len({*clips}) if grouped else len(rows)


def check_shots_of(labels, split, k, per, seed):
    by = {"category": [split.novel_attribute], "category_x_expression": [split.novel_attribute, "expression"]}[per]

    def groups(rows):
        return [*zip(*(labels.codes(a)[rows].tolist() for a in by), strict=True)]

    wanted = {*groups(np.concatenate([split.novel_pool, split.test_novel]))}
    least = min(groups(split.novel_pool).count(group) for group in wanted)
    try:
        drawn = shots(labels, split, k, 0, seed, per)
    except DataError as error:
        assert least < k and f"{k} shots were asked for, but the {split.novel_attribute} '" in str(error)
        return
    assert least >= k and sorted(groups(drawn)) == sorted([*wanted] * k)
    assert {*drawn.tolist()} <= {*split.novel_pool.tolist()} and len({*drawn.tolist()}) == len(drawn)
    for fewer in range(k):
        assert {*shots(labels, split, fewer, 0, seed, per).tolist()} <= {*drawn.tolist()}
    assert np.array_equal(drawn, shots(labels, split, k, 0, seed, per))
    prove_split(labels, split, drawn, k, per)


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(st.integers(5, 16), st.integers(3, 4), st.integers(5, 16), st.integers(1, 3)),
    st.sampled_from([*NOVEL_ATTRIBUTE]),
    SEEDS,
)
def test_every_role_of_a_complete_table_is_balanced_within_one(size, task, seed):
    labels = complete(*size)
    split = make_split(labels, SplitRecipe(task=task, seed=seed))
    for part in (BASE, NOVEL):
        whole = np.concatenate([getattr(split, role) for role in part])
        for role in part:
            for a in ATTRIBUTES:
                counts = np.bincount(labels.codes(a)[getattr(split, role)], minlength=len(labels.names(a)))
                assert not len(whole) or np.ptp(counts[np.unique(labels.codes(a)[whole])]) <= 1, (role, a)


@settings(deadline=None, max_examples=200)
@given(
    tables(),
    st.builds(
        SupervisedRecipe,
        method=st.sampled_from(["partition", "random", "one_each"]),
        of=st.sampled_from(ATTRIBUTES),
        seed=SEEDS,
        test=st.sampled_from([0.2, 0.5, 7, 200]),
        validation=st.sampled_from([0, 0.1, 3]),
        group_by_sequence=st.booleans(),
    ),
)
def test_a_supervised_split_is_sound_or_a_sentence_says_what_the_data_lacks(labels, recipe):
    try:
        split = make_supervised_split(labels, recipe)
    except DataError as error:
        assert "split" in str(error) or "use fewer" in str(error)
        return
    proof = prove_supervised(labels, split)
    rows = np.concatenate([getattr(split, side) for side in SIDES])
    assert len({*rows.tolist()}) == len(rows) == len(labels) - proof.without_role
    assert (labels.codes(recipe.of)[rows] >= 0).all() and len(split.train) and len(split.test)
    tested, trained = values(labels, recipe.of, split.test), values(labels, recipe.of, split.train)
    if recipe.method == "partition":
        assert {labels.names(recipe.of)[c] for c in tested - trained} == {*proof.untrained}
    else:
        assert tested <= trained and not proof.untrained
