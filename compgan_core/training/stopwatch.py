"""Where the time of a training step goes, without ever waiting for the device.

A loop says which part it is in; what it calls may say so for a part of that. On a CPU the clock is read at each change.
On a GPU an event is put into the stream instead, also into CUDA graphs, and events are read when the device has been
waited for anyway, so what they measure is the device's time: computing, or idle until the host has something for it.
Events of every step cost 1.5% of a small step, so the loop measures one step in ten there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

PARTS = ("data", "forward", "backward", "optimizer", "metrics", "checkpoint")
"""`optimizer` averages gradients over the workers, too; `metrics` waits for the slowest worker."""


class Mark(NamedTuple):
    """From this event on, that part; None is nobody's."""

    part: str | None
    event: Any


class Stopwatch:
    """Seconds by part. `running()` makes it the one that `timed` means in this thread."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        """Since the beginning; on a GPU, up to the last `read`."""
        self.awake = True
        """Whether a GPU's time is measured; to be changed between two steps."""
        self._on_gpu = device.type == "cuda"
        self._part: str | None = None
        self._since = 0.0
        self._marks: list[Mark] = []
        self._replayed: list[list[Mark]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        token = _RUNNING.set(self)
        try:
            yield
        finally:
            _RUNNING.reset(token)

    def to(self, part: str | None) -> str | None:
        """From now on it is that part; the one before."""
        before, self._part = self._part, part
        if self._on_gpu and not self.awake:
            return before
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True, external=torch.cuda.is_current_stream_capturing())
            event.record()
            self._marks.append(Mark(part, event))
        else:
            now = time.perf_counter()
            if before:
                self.seconds[before] += now - self._since
            self._since = now
        return before

    def read(self, steps: int) -> None:
        """Take in what a GPU has measured, of one of so many steps. The device must have done all that was marked."""
        for marks in (self._marks, *self._replayed):
            for (part, start), (_, end) in pairwise(marks):
                if part:
                    self.seconds[part] += steps * start.elapsed_time(end) / 1000
        self._marks, self._replayed = self._marks[-1:], []

    @contextmanager
    def on_the_host(self, part: str) -> Iterator[None]:
        """The block is this part, of whatever step, and ends when the host has done it."""
        before, started = self.to(None), time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started
            self.to(before)

    @contextmanager
    def _recording(self, recorded: list[Mark]) -> Iterator[None]:
        outside, self._marks, before = self._marks, recorded, self._part
        awake, self.awake = self.awake, True
        try:
            self.to(before)
            yield
            self.to(None)
        finally:
            self._marks, self._part, self.awake = outside, before, awake


_RUNNING: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """The block is this part of the step, if anybody measures it."""
    watch = _RUNNING.get()
    before = watch.to(name) if watch else None
    try:
        yield
    finally:
        if watch:
            watch.to(before)


def grad(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`, as the backward part of the step."""
    with timed("backward"):
        return torch.autograd.grad(*arguments, **options)


@contextmanager
def recording() -> Iterator[list[Mark]]:
    """While a CUDA graph is captured: its own marks, of the last time that it is launched. Yields them."""
    marks: list[Mark] = []
    watch = _RUNNING.get()
    if watch is None:
        yield marks
        return
    with watch._recording(marks):
        yield marks


@contextmanager
def replaying(marks: list[Mark]) -> Iterator[None]:
    """While a CUDA graph is launched, whose own marks say what it does."""
    watch = _RUNNING.get()
    if watch is None or not watch.awake:
        yield
        return
    before = watch.to(None)
    watch._replayed.append(marks)
    yield
    watch.to(before)
