"""Drawing a share of some faces so that identity, pose and expression all keep their distributions."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from compgan_core.data.labels import ATTRIBUTES, Attribute, Labels, Rows

EPSILON = 1e-6
TRIES = 5
Cell = tuple[int, ...]


def draw(
    labels: Labels,
    rows: Rows,
    fraction: float,
    rng: np.random.Generator,
    *,
    group_by_sequence: bool = False,
    both_sides: Attribute | None = None,
) -> Rows:
    """A `fraction` of the rows, balanced over all three attributes, that leaves at least one of every category.

    group_by_sequence: draw the frames of a recording together.
    both_sides: every category of this attribute also gives a row, where it has two; the others may lose all of theirs.
    """
    if not len(rows) or not fraction:
        return np.empty(0, np.int64)
    unit = _units(labels, rows, group_by_sequence)
    first = rows[np.unique(unit, return_index=True)[1]]
    codes = [np.unique(labels.codes(a)[first], return_inverse=True)[1] for a in ATTRIBUTES]
    taken = balanced_sample(np.stack(codes, axis=1), fraction, rng)
    if both_sides:
        _give_each(labels.codes(both_sides)[rows], unit, taken, True, 2, rng)
    for attribute in (both_sides,) if both_sides else ATTRIBUTES:
        _give_each(labels.codes(attribute)[rows], unit, taken, False, 1, rng)
    return rows[taken[unit]]


def recordings(labels: Labels, rows: Rows) -> Rows:
    """(n,) the number of the recording, of one person, that each face is a frame of; -1 where it is not known."""
    names, number = np.unique(labels.sequence[rows], return_inverse=True)
    known = labels.sequence[rows] != ""
    pairs = (labels.identity[rows].astype(np.int64) + 1) * len(names) + number
    return np.where(known, np.unique(pairs, return_inverse=True)[1], -1)


def balanced_sample(codes: Rows, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose a `fraction` of n units so that every attribute keeps its distribution.

    codes: (n, 3), the category of each unit in three attributes. Returns bool (n,). On a complete design the counts of
    two categories of an attribute differ by one at most.
    """
    shape = tuple(codes.max(axis=0) + 1)
    cell = np.ravel_multi_index(tuple(codes.T), shape)
    sizes = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
    quota = _round_well(sizes * fraction, rng).reshape(-1)
    order = np.lexsort((rng.random(len(cell)), cell))
    starts = np.cumsum(sizes.reshape(-1)) - sizes.reshape(-1)
    taken = np.zeros(len(cell), dtype=bool)
    taken[order] = np.arange(len(cell)) - starts[cell[order]] < quota[cell[order]]
    return taken


def _round_well(exact: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """The first rounding whose errors in the one-way sums lie within one of each other, or the best of a few."""
    best, least = None, np.inf
    for _ in range(TRIES):
        whole = _round_balanced(exact, rng)
        spread = max(np.ptp(over) for over in _one_way(whole - exact))
        if spread < least:
            best, least = whole, spread
        if least <= 1 + EPSILON:
            break
    assert best is not None
    return best


def _round_balanced(exact: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Round an (I, P, E) table up or down so that all its one-way sums stay near the exact ones.

    One slice after another; the units left over after rounding down go where the sums so far are most behind.
    """
    whole = np.floor(exact + EPSILON).astype(np.int64)
    rest = np.clip(exact - whole, 0, None)
    rest[rest < EPSILON] = 0
    extra = _spread(rest.sum(axis=0), rng)
    up = np.zeros(exact.shape, dtype=bool)
    behind = np.zeros(len(exact))
    for p in range(exact.shape[1]):
        for e in rng.permutation(exact.shape[2]):
            behind += rest[:, p, e]
            chosen = _most_behind(behind, rest[:, p, e] > 0, extra[p, e], rng)
            up[chosen, p, e] = True
            behind[chosen] -= 1
    _settle(rest, up)
    return whole + up


def _settle(rest: NDArray[np.float64], up: NDArray[np.bool_]) -> None:
    """Move one unit after another to where it brings the one-way sums of `up` nearest to those of `rest`, in place.

    Least squares over the sums. A move between cells that differ in one attribute leaves the sums of the others alone;
    on a complete design such moves suffice for sums that differ by one at most, since of two slices the fuller one
    always has a cell that is up where the other's is not.
    """
    over = _one_way(up - rest)
    while (move := _best_move(rest, up, over)) is not None:
        source, target = move
        up[source], up[target] = False, True
        for axis in range(3):
            over[axis][source[axis]] -= 1
            over[axis][target[axis]] += 1


def _one_way(table: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The sums over all but one axis, for each axis."""
    return [table.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]


def _best_move(
    rest: NDArray[np.float64], up: NDArray[np.bool_], over: list[NDArray[np.float64]]
) -> tuple[Cell, Cell] | None:
    """From which cell that is up to which that could be: along one attribute if that helps, else along more."""
    free = (rest > 0) & ~up
    cells = np.arange(rest.size).reshape(rest.shape)
    for count in (1, 2, 3):
        for axes in itertools.combinations(range(3), count):
            score = sum(np.expand_dims(over[axis], tuple({0, 1, 2} - {axis})) for axis in axes)
            lost, gained = _lines(np.where(up, score, -np.inf), axes), _lines(np.where(free, score, np.inf), axes)
            better = lost.max(axis=1) - gained.min(axis=1) - count
            line = better.argmax()
            if better[line] > EPSILON:
                ends = _lines(cells, axes)[line, [lost[line].argmax(), gained[line].argmin()]]
                source, target = np.stack(np.unravel_index(ends, rest.shape), axis=1).tolist()
                return tuple(source), tuple(target)
    return None


def _lines(table: NDArray, axes: tuple[int, ...]) -> NDArray:
    """A row for each choice of the other axes, which holds the cells that differ in these axes only."""
    moved = np.moveaxis(table, axes, range(-len(axes), 0))
    return moved.reshape(-1, math.prod(table.shape[axis] for axis in axes))


def _spread(exact: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Round a (P, E) table so that its row sums, and its column sums as they accumulate, stay near the exact ones."""
    whole = np.floor(exact + EPSILON).astype(np.int64)
    rest = np.clip(exact - whole, 0, None)
    behind = np.zeros(exact.shape[1])
    totals = np.diff(np.floor(np.cumsum(exact.sum(axis=1)) + 0.5 + EPSILON), prepend=0)
    for p, total in enumerate(totals.astype(int)):
        behind += rest[p]
        up = _most_behind(behind, rest[p] > EPSILON, total - whole[p].sum(), rng)
        whole[p, up] += 1
        behind[up] -= 1
    return whole


def _most_behind(behind: NDArray[np.float64], allowed: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Rows:
    """The `count` allowed positions with the largest shortfall; ties are broken at random."""
    positions = rng.permutation(np.flatnonzero(allowed))
    return positions[np.argsort(-np.round(behind[positions], 6), kind="stable")[: max(count, 0)]]


def _units(labels: Labels, rows: Rows, group_by_sequence: bool) -> Rows:
    """The number of the unit, drawn as a whole, that each row belongs to."""
    own = np.arange(len(rows))
    if not group_by_sequence:
        return own
    recording = recordings(labels, rows)
    return np.unique(np.where(recording < 0, -1 - own, recording), return_inverse=True)[1]


def _give_each(
    codes: NDArray[np.int32],
    unit: Rows,
    taken: NDArray[np.bool_],
    side: bool,
    at_least: int,
    rng: np.random.Generator,
) -> None:
    """Put a unit of every category on this side of `taken`, in place, where the category occurs in `at_least` units.

    codes, unit: (n,), the category and the unit of each row; the frames of a recording may be of several categories.
    """
    for missing in np.setdiff1d(codes, codes[taken[unit] == side]):
        units = np.unique(unit[codes == missing])
        if len(units) >= at_least:
            taken[rng.choice(units)] = side
