"""Labels of made-up data sets, complete or with holes."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from compgan_core.data.labels import Labels

POSES = ("bird", "front", "half_left", "half_right")


def complete(identities: int, poses: int, expressions: int, frames: int = 1) -> Labels:
    """Every identity x pose x expression, `frames` times; a sequence is one (identity, expression)."""
    cells = itertools.product(range(identities), POSES[:poses], range(expressions), range(frames))
    rows = [(f"i{i:03d}", p, f"e{e:02d}", f"i{i:03d}e{e:02d}", f, f"i{i:03d}/{p}/e{e:02d}_{f}") for i, p, e, f in cells]
    return Labels.from_names(*map(list, zip(*rows, strict=True)))


@st.composite
def with_holes(draw: st.DrawFn) -> Labels:
    """Some rows of a small complete design, in any order, some of them without a label."""
    labels = complete(
        draw(st.integers(2, 6)), draw(st.integers(3, 4)), draw(st.integers(2, 6)), draw(st.integers(1, 3))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.permutation(len(labels))[: max(1, int(len(labels) * draw(st.floats(0.3, 1))))]
    labels = labels.take(rows)
    if draw(st.booleans()):
        labels.identity[: len(labels) // 10] = -1
    return labels.compact()
