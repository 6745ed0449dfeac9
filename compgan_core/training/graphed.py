"""A pure function of tensors, launched as one CUDA graph.

A training step of a small network is thousands of kernels of a few microseconds each, and Python takes longer to launch
them than a GPU to run them. A graph is recorded once for each shape of its inputs, and launched whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compgan_core.training.loop import Update
from compgan_core.training.stopwatch import Mark, recording, replaying

Compute = Callable[..., Update]

WARM_UPS = 3
"""cuDNN chooses its algorithms, and the allocator and lazy modules settle, before anything is recorded."""


def graphed(compute: Compute, device: torch.device) -> Compute:
    """`compute` itself on a CPU; on a GPU, a function that records it as a CUDA graph and from then on replays it.

    compute(*tensors) -> Update: it must not look at values on the host, may use only kernels that can be captured, and
    reads weights where they lie, so they must be changed in place. Each call overwrites the Update of the call before.
    """
    return _Graphed(compute) if device.type == "cuda" else compute


class _Recording(NamedTuple):
    graph: Any
    inputs: list[Tensor]
    update: Update
    marks: list[Mark]


class _Graphed:
    def __init__(self, compute: Compute):
        self._compute = compute
        self._recordings: dict[tuple, _Recording] = {}

    def __call__(self, *inputs: Tensor) -> Update:
        shapes = tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._record(inputs)
        recording = self._recordings[shapes]
        for static, x in zip(recording.inputs, inputs, strict=True):
            static.copy_(x, non_blocking=True)
        with replaying(recording.marks):
            recording.graph.replay()
        return recording.update

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        static = [x.clone() for x in inputs]
        chosen, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self._compute(*static)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph), recording() as marks:
                update = self._compute(*static)
        finally:
            torch.backends.cudnn.benchmark = chosen
        return _Recording(graph, static, update, marks)
