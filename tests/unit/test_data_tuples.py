import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from designs import complete, with_holes
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compgan_core.data.labels import Labels
from compgan_core.data.tuples import CALL_CELL, CALL_IS_POSE, EpochSampler, TupleSampler
from compgan_core.errors import DataError


def all_tuples(labels, rows):
    """(i_t, ps, pt, es, et) by brute force."""
    present = {(labels.identity[r], labels.pose[r], labels.expression[r]) for r in rows} - {(-1, -1, -1)}
    people, poses, expressions = ({c[k] for c in present if min(c) >= 0} for k in range(3))

    def whole(i, ps, pt, es, et):
        return all((i, p, e) in present for p in (ps, pt) for e in (es, et))

    return {
        (i, *rest)
        for i in people
        for ps, pt in itertools.permutations(poses, 2)
        for es, et in itertools.permutations(expressions, 2)
        if whole(i, *(rest := (ps, pt, es, et))) and any(whole(r, *rest) for r in people - {i})
    }


def drawn_tuples(labels, batch):
    i, p, e = labels.identity[batch], labels.pose[batch], labels.expression[batch]
    return list(zip(i[:, 0], p[:, 0], p[:, 1], e[:, 0], e[:, 2], strict=True))


@settings(deadline=None)
@given(with_holes(), st.integers(0, 2**31))
def test_count_is_exact_and_every_sample_is_a_valid_tuple(labels, seed):
    rows = np.arange(len(labels))[::2] if len(labels) > 40 else np.arange(len(labels))
    expected = all_tuples(labels, rows)
    try:
        sampler = TupleSampler(labels, rows, seed)
    except DataError:
        assert not expected
        return
    assert sampler.count == len(expected)
    batch = sampler.batch(seed, 64)
    assert batch.shape == (64, 12) and batch.dtype == np.int64 and np.isin(batch, rows).all()
    assert set(drawn_tuples(labels, batch)) <= expected
    i, p, e = labels.identity[batch], labels.pose[batch], labels.expression[batch]
    assert (p[:, :4] == p[:, [0, 1, 0, 1]]).all() and (e[:, :4] == e[:, [0, 0, 2, 2]]).all()
    assert (i[:, :4] == i[:, :1]).all() and (i[:, 4:] == i[:, 4:5]).all() and (i[:, 4] != i[:, 0]).all()
    assert (p[:, 4:] == p[:, CALL_CELL]).all() and (e[:, 4:] == e[:, CALL_CELL]).all()


def test_references_follow_algorithm_1():
    labels = complete(5, 4, 6)
    batch = TupleSampler(labels, np.arange(len(labels)), seed=0).batch(0, 50)
    p, e = labels.pose[batch], labels.expression[batch]
    (ps, pt), (es, et) = (p[:, 0], p[:, 1]), (e[:, 0], e[:, 2])
    asked = {"1a": (pt, es), "1b": (ps, et), "2a": (pt, et), "2b": (pt, et)}
    asked |= {"3a": (ps, et), "3b": (pt, es), "4a": (ps, es), "4b": (ps, es)}
    for column, (pose, expression) in enumerate(asked.values(), start=4):
        assert (p[:, column] == pose).all() and (e[:, column] == expression).all()
    assert [call for call, is_pose in zip(asked, CALL_IS_POSE, strict=True) if is_pose] == ["1a", "2b", "3a", "4b"]


def test_calls_that_need_the_same_cell_share_the_reference():
    labels = complete(4, 3, 4, frames=5)
    references = TupleSampler(labels, np.arange(len(labels)), seed=1).batch(0, 200)[:, 4:]
    for cell in range(4):
        same = references[:, cell == CALL_CELL]
        assert (same == same[:, :1]).all()


@given(st.integers(0, 10**12), st.integers(0, 50), st.integers(0, 50), st.sampled_from([0.0, 0.5]))
def test_a_sample_depends_on_its_number_alone(start, n, more, mismatch):
    labels = complete(4, 3, 4, frames=2)
    sampler = TupleSampler(labels, np.arange(len(labels)), 5, mismatch)
    parts = np.concatenate([sampler.batch(start, n), sampler.batch(start + n, more)])
    assert np.array_equal(sampler.batch(start, n + more), parts)


def test_all_tuples_are_equally_likely_even_with_holes():
    labels = complete(4, 3, 3)
    rows = np.delete(np.arange(len(labels)), [0, 7, 20])
    expected = all_tuples(labels, rows)
    n = 200 * len(expected)
    counts = Counter(drawn_tuples(labels, TupleSampler(labels, rows, seed=3).batch(0, n)))
    assert counts.keys() == expected
    chi_square = sum((c - 200) ** 2 / 200 for c in counts.values())
    assert abs(chi_square - len(expected)) < 5 * np.sqrt(2 * len(expected))


def test_two_seeds_give_two_streams():
    labels = complete(4, 3, 4)
    one, other = (TupleSampler(labels, np.arange(len(labels)), seed).batch(0, 20) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_views_for_a_pose_change_are_of_the_same_instant_where_there_is_one():
    labels = complete(3, 3, 3, frames=4)
    batch = TupleSampler(labels, np.arange(len(labels)), seed=0).batch(0, 500)
    frame = labels.frame[batch]
    assert (frame[:, 0] == frame[:, 1]).all() and (frame[:, 2] == frame[:, 3]).all()
    assert len(np.unique(frame[:, 0])) == 4 and (frame[:, 0] != frame[:, 2]).any()
    apart = replace(labels, frame=labels.frame + 10 * labels.pose)  # cameras that never agree
    batch = TupleSampler(apart, np.arange(len(labels)), seed=0).batch(0, 500)
    assert (apart.frame[batch[:, 0]] % 10 != apart.frame[batch[:, 1]] % 10).any()


def test_a_mismatched_reference_keeps_only_what_its_call_takes_from_it():
    labels = complete(5, 4, 6)
    batch = TupleSampler(labels, np.arange(len(labels)), 0, reference_mismatch=1.0).batch(0, 2000)
    cells, references = batch[:, CALL_CELL], batch[:, 4:]
    pose_kept = labels.pose[references] == labels.pose[cells]
    expression_kept = labels.expression[references] == labels.expression[cells]
    assert pose_kept[:, CALL_IS_POSE].all() and expression_kept[:, ~CALL_IS_POSE].all()
    assert np.isclose(expression_kept[:, CALL_IS_POSE].mean(), 1 / 6, atol=0.02)
    assert np.isclose(pose_kept[:, ~CALL_IS_POSE].mean(), 1 / 4, atol=0.02)
    assert (labels.identity[references] != labels.identity[batch[:, :1]]).all()


def test_mismatch_happens_with_the_probability_asked_for():
    labels = complete(5, 4, 20)
    batch = TupleSampler(labels, np.arange(len(labels)), 0, reference_mismatch=0.3).batch(0, 4000)
    changed = labels.expression[batch[:, 4:]] != labels.expression[batch[:, CALL_CELL]]
    assert np.isclose(changed[:, CALL_IS_POSE].mean(), 0.3 * 19 / 20, atol=0.02)


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ("a1x a1y b1x b1y", "two poses, and the data has only '1'"),
        ("a1x a2x b1x b2x", "two expressions, and the data has only 'x'"),
        ("a1x a2x a1y a2y", "two identities, and the data has only 'a'"),
        ("a1x a2y b1x b2y", "none of the 2 identities has the four faces"),
        ("a1x a2x a1y a2y b1x", "no two of the 2 identities share two poses x two expressions"),
    ],
)
def test_no_tuple_is_an_error_that_says_what_is_missing(cells, sentence):
    identity, pose, expression = zip(*cells.split(), strict=True)
    n = len(identity)
    labels = Labels.from_names(identity, pose, expression, [""] * n, [0] * n, cells.split())
    with pytest.raises(DataError, match=sentence):
        TupleSampler(labels, np.arange(n), seed=0)


@given(st.integers(1, 20), st.integers(0, 200), st.integers(0, 60), st.integers(0, 60))
def test_the_epoch_stream_is_permutations_and_each_position_is_fixed(size, start, n, more):
    assume(n + more)
    rows = np.arange(size) * 3 + 1
    whole = EpochSampler(rows, seed=2).batch(0, start + n + more)
    sampler = EpochSampler(rows, seed=2)
    assert np.array_equal(np.concatenate([sampler.batch(start, n), sampler.batch(start + n, more)]), whole[start:])
    for epoch in range(len(whole) // size):
        assert sorted(whole[epoch * size : (epoch + 1) * size]) == rows.tolist()


def test_epochs_differ_and_an_empty_role_is_an_error():
    stream = EpochSampler(np.arange(50), seed=0).batch(0, 100)
    assert not np.array_equal(stream[:50], stream[50:])
    with pytest.raises(DataError, match="no face to draw from"):
        EpochSampler(np.empty(0, np.int64), seed=0)
