"""Sampling that keeps the distribution of several attributes at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compgan_core.data.labels import Rows


def balanced_sample(codes: Rows, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose a `fraction` of n units so that every attribute keeps its distribution.

    codes: (n, 3), the category of each unit in three attributes. Returns bool (n,). On a complete design the counts of
    two categories of an attribute differ by one or two.
    """
    shape = tuple(codes.max(axis=0) + 1)
    cell = np.ravel_multi_index(tuple(codes.T), shape)
    sizes = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
    quota = _round_balanced(sizes * fraction, rng).reshape(-1)
    order = np.lexsort((rng.random(len(cell)), cell))
    starts = np.cumsum(sizes.reshape(-1)) - sizes.reshape(-1)
    taken = np.zeros(len(cell), dtype=bool)
    taken[order] = np.arange(len(cell)) - starts[cell[order]] < quota[cell[order]]
    return taken


def _round_balanced(exact: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Round an (I, P, E) table up or down so that all its one-way sums stay near the exact ones.

    One slice after another; the units left over after rounding down go where the sums so far are most behind.
    """
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = np.clip(exact - whole, 0, None)
    rest[rest < 1e-6] = 0
    extra = _spread(rest.sum(axis=0), rng)
    behind = np.zeros(len(exact))
    for p in range(exact.shape[1]):
        for e in rng.permutation(exact.shape[2]):
            behind += rest[:, p, e]
            up = _most_behind(behind, rest[:, p, e] > 0, extra[p, e], rng)
            whole[up, p, e] += 1
            behind[up] -= 1
    return whole


def _spread(exact: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Round a (P, E) table so that its row sums, and its column sums as they accumulate, stay near the exact ones."""
    whole = np.floor(exact + 1e-6).astype(np.int64)
    rest = np.clip(exact - whole, 0, None)
    behind = np.zeros(exact.shape[1])
    totals = np.diff(np.rint(np.cumsum(exact.sum(axis=1))), prepend=0)
    for p, total in enumerate(totals.astype(int)):
        behind += rest[p]
        up = _most_behind(behind, rest[p] > 1e-6, total - whole[p].sum(), rng)
        whole[p, up] += 1
        behind[up] -= 1
    return whole


def _most_behind(behind: NDArray[np.float64], allowed: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Rows:
    """The `count` allowed positions with the largest shortfall; ties are broken at random."""
    positions = rng.permutation(np.flatnonzero(allowed))
    return positions[np.argsort(-np.round(behind[positions], 6), kind="stable")[: max(count, 0)]]
