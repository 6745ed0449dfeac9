"""Since when a cluster has had nothing to do: what a forgotten head node is switched off by."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from orchestrator.runtime.submit import JobServer


def idle_minutes(address: str) -> float:
    """Minutes since the last driver or job of the cluster ended, or since this machine started; 0 while one runs.

    address: of the dashboard, e.g. http://127.0.0.1:8265. Raises CapacityError if nobody answers there.
    """
    import psutil

    return idle_since(JobServer(address).jobs(), psutil.boot_time(), time.time())


def idle_since(jobs: Iterable[Any], start: float, now: float) -> float:
    """Minutes before `now` (seconds since the epoch). jobs: with `status`, and `end_time` in milliseconds."""
    ends = [start]
    for job in jobs:
        if job.status in ("PENDING", "RUNNING"):
            return 0.0
        ends.append((job.end_time or 0) / 1000)
    return max(0.0, now - max(ends)) / 60
