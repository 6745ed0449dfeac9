"""Measures of recognition, Eq. (14) to (18), and the usual ones, all from raw counts.

Counts add over workers; ratios do not. So a worker contributes a confusion matrix, the matrices are summed, and every
ratio is taken from the sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def confusion(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Counts int64 (classes, classes): row = label, column = prediction. Negative labels are left out."""
    known = labels >= 0
    index = labels[known] * classes + predictions[known]
    return torch.bincount(index, minlength=classes * classes).view(classes, classes)


class ClassMetrics(NamedTuple):
    """Of single labels; shares in [0, 1]. Macro means run over the classes that occur."""

    top1: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    images: int


def class_metrics(counts: np.ndarray) -> ClassMetrics:
    """From a confusion matrix (classes, classes). A class never predicted has precision 0."""
    counts = np.asarray(counts, dtype=np.float64)
    support, predicted, hits = counts.sum(1), counts.sum(0), np.diag(counts)
    occurs = support > 0
    if not occurs.any():
        nothing = float("nan")
        return ClassMetrics(nothing, nothing, nothing, nothing, nothing, 0)
    recall = hits[occurs] / support[occurs]
    precision = hits[occurs] / np.maximum(predicted[occurs], 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return ClassMetrics(
        top1=hits.sum() / counts.sum(),
        balanced_accuracy=recall.mean(),
        macro_precision=precision.mean(),
        macro_recall=recall.mean(),
        macro_f1=f1.mean(),
        images=int(counts.sum()),
    )


class SetMetrics(NamedTuple):
    """Eq. (14) to (18), of label sets."""

    mean_accuracy: float
    """Eq. (14), over the attributes that occur both present and absent; NaN where there is none."""
    accuracy: float
    precision: float
    recall: float
    f1: float
    """Eq. (18), from the averaged precision and recall."""
    attributes: int
    """How many attributes Eq. (14) was taken over."""


def set_metrics(truth: np.ndarray, predicted: np.ndarray) -> SetMetrics:
    """Eq. (14) to (18) for multi-hot sets, bool (samples, attributes).

    The M of Eq. (15) to (17) is read as the number of samples, as in the code those measures come from (RAP): an empty
    prediction counts as zero, a sample without any label is left out.
    """
    y, f = np.asarray(truth, bool), np.asarray(predicted, bool)
    positives, negatives = y.sum(0), (~y).sum(0)
    usable = (positives > 0) & (negatives > 0)
    rates = (y & f).sum(0) / np.maximum(positives, 1) + (~y & ~f).sum(0) / np.maximum(negatives, 1)
    labelled = y.any(1)
    y, f = y[labelled], f[labelled]
    both = (y & f).sum(1)
    precision = (both / np.maximum(f.sum(1), 1)).mean()
    recall = (both / y.sum(1)).mean()
    return SetMetrics(
        mean_accuracy=float(rates[usable].mean() / 2) if usable.any() else float("nan"),
        accuracy=float((both / (y | f).sum(1)).mean()),
        precision=float(precision),
        recall=float(recall),
        f1=float(2 * precision * recall / max(precision + recall, 1e-300)),
        attributes=int(usable.sum()),
    )


def mean_accuracy(counts: np.ndarray) -> float:
    """Eq. (14) of single labels as one-hot sets, from a confusion matrix (classes, classes); NaN for one class."""
    counts = np.asarray(counts, dtype=np.float64)
    total, positives, hits = counts.sum(), counts.sum(1), np.diag(counts)
    negatives = total - positives
    true_negatives = total - positives - counts.sum(0) + hits
    usable = (positives > 0) & (negatives > 0)
    if not usable.any():
        return float("nan")
    return float((hits[usable] / positives[usable] + true_negatives[usable] / negatives[usable]).mean() / 2)


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 when both are."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0
