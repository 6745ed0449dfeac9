"""Which faces a training step sees, as a pure function of (seed, global sample number)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compgan_core.data.labels import Labels, Rows, check_trainable
from compgan_core.errors import ConfigurationError, DataError
from compgan_core.randomness import key

Codes = NDArray[np.int64]
Bits = NDArray[np.uint64]

# Algorithm 1: the cell whose reference each generator call needs, as a column of the tuple, and whether the call is
# G_pose. The order of the calls is 1a 1b 2a 2b 3a 3b 4a 4b.
CALL_CELL = np.array([1, 2, 3, 3, 2, 1, 0, 0])
CALL_IS_POSE = np.array([True, False, False, True, True, False, False, True])


class TupleSampler:
    """Draws the real faces of Algorithm 1, each valid tuple (i_t, ps, pt, es, et) equally often.

    labels: of the whole data set. rows: those that may be used. reference_mismatch: the probability that a reference
    is right only in the attribute its call takes from it (the pose for G_pose), while identity, and the other
    attribute, are drawn at large; at 0 the references are the paper's. A DataError says what is missing when there
    is no valid tuple.
    """

    count: int
    """The number of distinct (i_t, ps, pt, es, et) for which all four faces, and some other person's, exist."""

    def __init__(self, labels: Labels, rows: ArrayLike, seed: int, reference_mismatch: float = 0.0):
        if not 0 <= reference_mismatch <= 1:
            raise ConfigurationError(f"reference_mismatch is {reference_mismatch}, but it is a probability: 0 to 1")
        self._mismatch = reference_mismatch
        self._stream = key(seed, "tuples") & 0xFFFF_FFFF_FFFF_FFFF
        self._index_cells(labels, np.asarray(rows, dtype=np.int64))
        self._index_quads()
        self.count = 4 * len(self._member)
        if not self.count:
            raise DataError(self._what_is_missing(labels))
        self._others_by_pose = _Others(self._rows, self._pose, self._identity)
        self._others_by_expression = _Others(self._rows, self._expression, self._identity)

    def batch(self, start: int, n: int) -> Rows:
        """Samples start .. start + n - 1 of the stream, as row numbers of `labels`: int64 (n, 12).

        Columns 0-3: identity i_t in the cells (ps, es) = source, (pt, es), (ps, et), (pt, et).
        Columns 4-11: the reference of each generator call, identity i_r != i_t, in the order
        1a pose (pt, es), 1b exp (ps, et), 2a exp (pt, et), 2b pose (pt, et), 3a pose (ps, et), 3b exp (pt, es),
        4a exp (ps, es), 4b pose (ps, es). Calls that need the same cell share the row unless mismatched.
        """
        bits = _bits(self._stream, np.arange(start, start + n, dtype=np.uint64), 26)
        pick = _below(bits[:, 0], self.count)
        entry, swap_poses, swap_expressions = pick >> 2, pick & 1, pick >> 1 & 1
        quad = self._member_quad[entry]
        ps, pt = _either(self._quad_poses[quad], swap_poses)
        es, et = _either(self._quad_expressions[quad], swap_expressions)
        target, other = self._member[entry], self._another_member(entry, quad, bits[:, 1])
        faces = self._faces(target, ps, pt, es, et, bits[:, 2:6])
        references = self._faces(other, ps, pt, es, et, bits[:, 6:10])[:, CALL_CELL]
        if self._mismatch:
            poses, expressions = np.stack([ps, pt, ps, pt], axis=1), np.stack([es, es, et, et], axis=1)
            loose = np.where(
                CALL_IS_POSE,
                self._others_by_pose.draw(poses[:, CALL_CELL], target[:, None], bits[:, 10:18]),
                self._others_by_expression.draw(expressions[:, CALL_CELL], target[:, None], bits[:, 10:18]),
            )
            references = np.where(_unit(bits[:, 18:26]) < self._mismatch, loose, references)
        return np.concatenate([faces, references], axis=1)

    def _index_cells(self, labels: Labels, rows: Rows) -> None:
        """Sort the usable rows by cell, then frame, then sequence, so that a cell is a range and a moment a key."""
        rows = rows[(labels.identity[rows] >= 0) & (labels.pose[rows] >= 0) & (labels.expression[rows] >= 0)]
        self._shape = len(labels.identities), len(labels.poses), len(labels.expressions)
        codes = labels.identity[rows], labels.pose[rows], labels.expression[rows]
        cell = np.ravel_multi_index(codes, self._shape) if len(rows) else np.empty(0, np.int64)
        frames, frame = np.unique(labels.frame[rows], return_inverse=True)
        sequences, sequence = np.unique(labels.sequence[rows], return_inverse=True)
        moment = (cell * len(frames) + frame) * len(sequences) + sequence
        order = np.argsort(moment, kind="stable")
        self._rows, self._moment = rows[order], moment[order]
        self._sequences, self._moments_per_cell = len(sequences), len(frames) * len(sequences)
        self._identity, self._pose, self._expression = (c[order].astype(np.int64) for c in codes)
        self._cell_size = np.bincount(cell, minlength=int(np.prod(self._shape)))
        self._cell_start = np.cumsum(self._cell_size) - self._cell_size

    def _index_quads(self) -> None:
        """List the (pose pair, expression pair) quads that two or more identities have whole, and those identities.

        With b(i, e) = identity i has expression e in both poses, b^T b counts the identities of every quad at once.
        """
        _, n_poses, n_expressions = self._shape
        present = self._cell_size.reshape(self._shape) > 0
        first, second = np.triu_indices(n_expressions, 1)
        pairs, none = np.empty((0, 2), np.int64), np.empty(0, np.int64)  # there may be no pair of poses
        poses, expressions, members, sizes = [pairs], [pairs], [none], [none]
        for p, q in zip(*np.triu_indices(n_poses, 1), strict=True):
            both = present[:, p] & present[:, q]
            number = both.T.astype(np.float32) @ both.astype(np.float32)
            usable = np.flatnonzero(number[first, second] >= 2)
            e, f = first[usable], second[usable]
            quad, member = np.nonzero((both[:, e] & both[:, f]).T)
            poses.append(np.full((len(usable), 2), (p, q)))
            expressions.append(np.stack([e, f], axis=1))
            members.append(member)
            sizes.append(np.bincount(quad, minlength=len(usable)))
        self._quad_poses, self._quad_expressions = np.concatenate(poses), np.concatenate(expressions)
        self._quad_size = np.concatenate(sizes)
        self._quad_start = np.cumsum(self._quad_size) - self._quad_size
        self._member = np.concatenate(members).astype(np.int32)
        self._member_quad = np.repeat(np.arange(len(self._quad_size), dtype=np.int32), self._quad_size)

    def _another_member(self, entry: Codes, quad: Codes, bits: Bits) -> Codes:
        """An identity of the same quad, never the one at `entry`."""
        position = self._quad_start[quad] + _below(bits, self._quad_size[quad] - 1)
        return self._member[position + (position >= entry)]

    def _faces(self, identity: Codes, ps: Codes, pt: Codes, es: Codes, et: Codes, bits: Bits) -> Rows:
        """Rows (n, 4) of one identity: (ps, es), (pt, es), (ps, et), (pt, et)."""
        sources = [self._views(identity, ps, pt, e, bits[:, c : c + 2]) for c, e in ((0, es), (2, et))]
        return self._rows[np.concatenate(sources, axis=1)]

    def _views(self, identity: Codes, ps: Codes, pt: Codes, expression: Codes, bits: Bits) -> Codes:
        """A random face of the first pose, and of the second one taken at the same instant, if there is one: (n, 2).

        F2ED's four cameras ran at once, so a face and its other view should differ in pose alone.
        """
        a, b = (np.ravel_multi_index((identity, p, expression), self._shape) for p in (ps, pt))
        first = self._cell_start[a] + _below(bits[:, 0], self._cell_size[a])
        wanted = self._moment[first] + (b - a) * self._moments_per_cell
        at_or_after = np.minimum(np.searchsorted(self._moment, wanted), len(self._moment) - 1)
        second = self._cell_start[b] + _below(bits[:, 1], self._cell_size[b])
        for found in (np.maximum(at_or_after - 1, 0), at_or_after):
            same_frame = self._moment[found] // self._sequences == wanted // self._sequences
            second = np.where(same_frame, found, second)
        return np.stack([first, second], axis=1)

    def _what_is_missing(self, labels: Labels) -> str:
        check_trainable(labels.take(self._rows))
        present = self._cell_size.reshape(self._shape) > 0
        both = present[:, :, None, :] & present[:, None, :, :] & ~np.eye(self._shape[1], dtype=bool)[:, :, None]
        if (both.sum(axis=-1) >= 2).any():
            return (
                f"no two of the {self._shape[0]} identities share two poses x two expressions, so no face could serve "
                "as a reference for another person: add faces, or choose a subset with more identities in common"
            )
        return (
            f"none of the {self._shape[0]} identities has the four faces of two poses x two expressions that "
            "Algorithm 1 compares: add faces, or choose poses and expressions that occur together"
        )


class Ahead:
    """A sampler asked for many samples at a time: for one batch, NumPy's calls cost more than their work.

    batch: as `TupleSampler.batch`, the rows of samples start .. start + n - 1.
    """

    def __init__(self, batch: Callable[[int, int], Rows], samples: int = 1024):
        self._batch, self._samples = batch, samples
        self._start, self._rows = 0, np.empty((0, 12), np.int64)

    def batch(self, start: int, n: int) -> Rows:
        """As `TupleSampler.batch`."""
        if not self._start <= start <= start + n <= self._start + len(self._rows):
            self._start, self._rows = start, self._batch(start, max(n, self._samples))
        return self._rows[start - self._start :][:n]


class EpochSampler:
    """An endless stream of rows: one permutation of `rows` after another, each a function of (seed, epoch)."""

    def __init__(self, rows: ArrayLike, seed: int):
        self._rows = np.asarray(rows, dtype=np.int64)
        if not len(self._rows):
            raise DataError("there is no face to draw from: the split gave this role no rows")
        self._seed, self._epoch, self._order = seed, -1, self._rows

    def batch(self, start: int, n: int) -> Rows:
        """The rows at positions start .. start + n - 1 of the stream: int64 (n,)."""
        size, parts = len(self._rows), []
        while n > 0:
            epoch, offset = divmod(start, size)
            part = self._permutation(epoch)[offset : offset + n]
            parts.append(part)
            start, n = start + len(part), n - len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _permutation(self, epoch: int) -> Rows:
        if epoch != self._epoch:
            bits = _bits(key(self._seed, "epoch", epoch) & 0xFFFF_FFFF_FFFF_FFFF, np.arange(len(self._rows)), 1)
            self._epoch, self._order = epoch, self._rows[np.argsort(bits[:, 0], kind="stable")]
        return self._order


class _Others:
    """Rows grouped by (value of an attribute, identity), to draw one with a given value from anyone but a person."""

    def __init__(self, rows: Rows, value: Codes, identity: Codes):
        order = np.lexsort((identity, value))
        self._rows = rows[order]
        shape = int(value.max()) + 1, int(identity.max()) + 1
        sizes = np.bincount(np.ravel_multi_index((value, identity), shape), minlength=shape[0] * shape[1])
        self._size = sizes.reshape(shape)
        self._start = (np.cumsum(sizes) - sizes).reshape(shape)
        self._total = self._size.sum(axis=1)

    def draw(self, value: Codes, identity: Codes, bits: Bits) -> Rows:
        own = self._size[value, identity]
        position = self._start[value, 0] + _below(bits, self._total[value] - own)
        return self._rows[np.where(position >= self._start[value, identity], position + own, position)]


def _either(pairs: Codes, swap: Codes) -> tuple[Codes, Codes]:
    """Columns 0 and 1 of (n, 2), exchanged where swap is 1."""
    n = np.arange(len(pairs))
    return pairs[n, swap], pairs[n, 1 - swap]


def _bits(stream: int, samples: NDArray, n: int) -> Bits:
    """`n` 64-bit numbers for each sample number: (samples, n). The NumPy twin of `randomness.uniform`."""
    rows = _mix(samples.astype(np.uint64) + np.uint64(stream))
    return _mix(rows[:, None] + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15))


def _mix(x: Bits) -> Bits:
    """The splitmix64 finaliser (Steele, Lea and Flood, 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58_476D_1CE4_E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D0_49BB_1331_11EB)
    return x ^ x >> np.uint64(31)


def _below(bits: Bits, bound: int | Codes) -> Codes:
    """Whole numbers in [0, bound); the bias of the remainder is below bound / 2^64."""
    return (bits % np.asarray(bound).astype(np.uint64)).astype(np.int64)


def _unit(bits: Bits) -> NDArray[np.float64]:
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
