"""Eq. (14) to (18) and the usual measures, against values worked out by hand and laws they obey."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compgan_core.metrics import class_metrics, confusion, harmonic_mean, mean_accuracy, set_metrics

label_pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def counts_of(pairs, classes=5):
    y, f = torch.tensor(pairs).T
    return confusion(y, f, classes).numpy()


def test_confusion_counts_labels_in_rows_and_leaves_out_unknown_ones():
    found = confusion(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 0]), 2)
    assert found.tolist() == [[1, 1], [0, 1]]


def test_class_metrics_of_a_small_example():
    found = class_metrics(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert found.top1 == pytest.approx(5 / 6)
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert found.macro_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.macro_f1 == pytest.approx((6 / 7 + 4 / 5) / 2)
    assert found.images == 6


@given(label_pairs)
def test_counts_of_workers_add_up_to_the_counts_of_one(pairs):
    parts = pairs[::2], pairs[1::2]
    total = sum((counts_of(part) for part in parts if part), start=np.zeros((5, 5), int))
    assert np.array_equal(total, counts_of(pairs))


def test_eq_14_to_18_of_a_multi_label_example():
    truth = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    predicted = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    found = set_metrics(truth, predicted)
    assert found.accuracy == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found.precision == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.recall == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found.f1 == pytest.approx(2 * (1 / 2) * (1 / 2) / (1 / 2 + 1 / 2))
    assert found.attributes == 2  # the third never occurs
    assert found.mean_accuracy == pytest.approx(((1 / 2 + 1) / 2 + (1 / 2 + 1) / 2) / 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 4))), min_size=1, max_size=40))
def test_with_single_labels_accuracy_equals_precision_and_is_at_most_recall(samples):
    truth = np.eye(5, dtype=bool)[[y for y, _ in samples]]
    predicted = np.array([[c in f for c in range(5)] for _, f in samples])
    found = set_metrics(truth, predicted)
    assert found.accuracy == pytest.approx(found.precision)
    assert found.accuracy <= found.recall + 1e-12


@given(label_pairs)
def test_with_one_prediction_each_all_four_equal_top1_and_eq_14_agrees_with_the_counts(pairs):
    y, f = np.array(pairs).T
    found = set_metrics(np.eye(5, dtype=bool)[y], np.eye(5, dtype=bool)[f])
    top1 = class_metrics(counts_of(pairs)).top1
    assert [found.accuracy, found.precision, found.recall, found.f1] == pytest.approx([top1] * 4)
    if found.attributes:
        assert mean_accuracy(counts_of(pairs)) == pytest.approx(found.mean_accuracy)


def test_eq_14_has_its_floor_of_balanced_classes():
    classes, recall = 54, 0.35
    counts = np.full((classes, classes), (1 - recall) / (classes - 1))
    np.fill_diagonal(counts, recall)
    assert mean_accuracy(counts) == pytest.approx(0.5 * (recall + 1 - (1 - recall) / (classes - 1)))


def test_the_harmonic_mean_of_nothing_is_nothing():
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(40, 60) == pytest.approx(48)
