"""Counter-based randomness: every draw is a function of (seed, purpose, index).

There is no state to save and no order to keep, so the stream of samples is the same on one worker and on sixty-four,
and resuming is a matter of knowing a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def key(seed: int, purpose: str, *index: int | str) -> int:
    """A 128-bit key that names one draw."""
    text = "/".join(map(str, (seed, purpose, *index)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """A NumPy generator (Philox) that belongs to this one draw."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *index)))


def uniform(seed: int, purpose: str, samples: Tensor, n: int) -> Tensor:
    """`n` numbers in [0, 1) for each global sample number, made on the samples' device.

    samples: int64 (batch,). Returns float32 (batch, n). Row i depends on `samples[i]` alone, so a dropout mask made
    from it does not depend on which worker holds the sample.
    """
    rows = _mix(samples + _signed(key(seed, purpose) & 0xFFFF_FFFF_FFFF_FFFF))
    columns = torch.arange(1, n + 1, device=samples.device) * _signed(0x9E37_79B9_7F4A_7C15)
    bits = _mix(rows[:, None] + columns[None, :])
    return (bits >> 40 & 0xFF_FFFF).to(torch.float32) / float(1 << 24)


def normal(seed: int, purpose: str, samples: Tensor, n: int) -> Tensor:
    """`n` numbers from N(0, 1) for each global sample number: as `uniform`, through the inverse of the normal CDF."""
    return torch.special.ndtri(uniform(seed, purpose, samples, n) + 2.0**-25)


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Torch's own initialisers draw from a stream that belongs to (seed, purpose); the global state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, purpose) & 0x7FFF_FFFF_FFFF_FFFF)
        yield


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser (Steele, Lea and Flood, 2014) on int64, whose products wrap as unsigned ones do."""
    x = (x ^ _shift(x, 30)) * _signed(0xBF58_476D_1CE4_E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D0_49BB_1331_11EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of an int64 tensor."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The int64 with the bits of this uint64."""
    return x - (1 << 64) if x >= 1 << 63 else x
