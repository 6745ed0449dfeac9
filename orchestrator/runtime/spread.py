"""One function over a stream of many items: here while they are few, on all nodes through Ray Data when they are many.

Items and results are bytes, so that they go over any wire without anybody looking inside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.pool import ThreadPool
from typing import Protocol

FEW = 4  # items; fewer are done before a Ray would have started

Items = Callable[[], Iterator[bytes]]


class Work(Protocol):
    """What is done to an item. Picklable; it may be called again for the same item, on another node."""

    def __call__(self, item: bytes, each: Callable) -> bytes:
        """each: as `map`, over as many threads as this call may use."""


def spread(items: Items, work: Work, *, address: str | None = None, here_only: bool = False) -> Iterator[bytes]:
    """The results in the order of the items.

    items: picklable; called for the stream of items, from its start and maybe more than once, in one process.
    address: of the Ray cluster, if it comes to that; None: RAY_ADDRESS, or a Ray started here.
    here_only: the items can be read on this node only, such as files of its disk.

    Raises what `items` or `work` raises on purpose (any CompganError), as it was.
    """
    head = [*islice(items(), FEW + 1)]
    if len(head) <= FEW:
        return here(head, work)
    from orchestrator.runtime.ray_data import on_ray  # Ray takes seconds to import

    return on_ray(items, work, address, here_only)


def here(items: Iterable[bytes], work: Work) -> Iterator[bytes]:
    """The results in the order of the items, in this process."""
    with ThreadPool(len(os.sched_getaffinity(0))) as pool:
        for item in items:
            yield work(item, pool.imap)
