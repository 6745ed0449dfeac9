"""What the parts of a Comp-GAN step ask of the machine, and what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import TUPLES, World, fp32_is_fp32
from benchmarks.timing import Figure, figure, in_turn
from compgan_core.compgan import CALLS, against_discriminator
from compgan_core.training.graphed import graphed
from compgan_core.training.loop import Update, autocast
from compgan_core.training.runtime import trainable

PRESET = "paper"
MATMUL = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def roofline(device: torch.device, repeats: int) -> list[Figure]:
    """FLOP and bytes of a `paper` step by part, its share of this machine's matrix product and of its copy.

    Bytes are those that the kernels of eager torch read and write, each operand once. A part is measured alone.
    """
    figures = []
    with fp32_is_fp32():
        peaks = {name: _matmul_flops(device, dtype, repeats) for name, dtype in DTYPES.items()}
        copy = _copy_bytes(device, repeats)
        figures += [figure(f"matrix product, {name}", "TFLOP/s", [v / 1e12 for v in p]) for name, p in peaks.items()]
        figures.append(figure("copy, read and written", "GB/s", [v / 1e9 for v in copy]))
        for precision in DTYPES:
            world = World(PRESET, precision, TUPLES[device.type][PRESET], device)
            peak, bandwidth = statistics.median(peaks[precision]), statistics.median(copy)
            for name, (part, inputs) in _parts(world, precision).items():
                flops, moved = _counted(part, inputs)
                recorded = graphed(part, device)
                seconds = in_turn({"": lambda r=recorded, i=inputs: r(*i)}, repeats, device)[""]
                label = f"{PRESET}, {precision}, {name}"
                median = statistics.median(seconds)
                figures += [
                    figure(label, "ms", [s * 1e3 for s in seconds]),
                    figure(f"{label}: arithmetic", "GFLOP", [flops / 1e9]),
                    figure(f"{label}: bytes", "GB", [moved / 1e9]),
                    figure(f"{label}: achieved", "TFLOP/s", [flops / median / 1e12]),
                    figure(f"{label}: of the matrix product", "%", [100 * flops / median / peak]),
                    figure(f"{label}: of the copy", "%", [100 * moved / median / bandwidth]),
                ]
    return figures


def _parts(world: World, precision: str) -> dict[str, tuple[Callable[..., Update], list[Tensor]]]:
    gan, batch, device = world.gan, world.batch, world.batch.reals.device
    cast: Any = precision
    fakes = torch.rand_like(batch.references)
    with torch.no_grad(), autocast(device, cast):
        maps, logits = world.classifier.maps_and_logits(fakes.flatten(0, 1))
    slopes = [torch.randn_like(x) for x in (*maps, *logits)]

    def generators(source: Tensor, references: Tensor, slope: Tensor) -> Update:
        with autocast(device, cast):
            made = gan(source, references)
        pose = torch.autograd.grad(made, trainable(gan.pose), slope.to(made.dtype), retain_graph=True)
        exp = torch.autograd.grad(made, trainable(gan.exp), slope.to(made.dtype))
        return Update({}, {"pose": list(pose), "exp": list(exp)})

    def classifier(faces: Tensor, reals: Tensor, *slopes: Tensor) -> Update:
        seen = faces.flatten(0, 1).requires_grad_()
        with autocast(device, cast):
            maps, logits = world.classifier.maps_and_logits(seen)
            with torch.no_grad():
                truth, _ = world.classifier.maps_and_logits(reals.flatten(0, 1))
        outputs = [*maps, *logits]
        first = torch.autograd.grad(outputs, seen, list(slopes), retain_graph=True)
        second = torch.autograd.grad(outputs, seen, list(slopes))
        return Update({}, {"faces": [*first, *second, *truth]})

    def discriminator(faces: Tensor) -> Update:
        against = against_discriminator(faces, batch, world.discriminator, autocast(device, cast))
        return Update({"loss": against.loss}, {"discriminator": against.gradients})

    return {
        f"generators ({len(CALLS)} calls, back twice)": (generators, [batch.reals[0], batch.references, fakes]),
        "F_cls (fakes, back twice; reals)": (classifier, [fakes, batch.reals, *slopes]),
        "D (reals and fakes, back twice)": (discriminator, [fakes]),
        "whole step": (world.update, [*batch.tensors, torch.ones((), device=device)]),
    }


def _matmul_flops(device: torch.device, dtype: torch.dtype, repeats: int) -> list[float]:
    n = MATMUL[device.type]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    calls = 10 if device.type == "cuda" else 4
    seconds = in_turn({"": lambda: [a @ b for _ in range(calls)]}, repeats, device)[""]
    return [calls * 2 * n**3 / s for s in seconds]


def _copy_bytes(device: torch.device, repeats: int) -> list[float]:
    source = torch.randn(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    seconds = in_turn({"": lambda: [target.copy_(source) for _ in range(4)]}, repeats, device)[""]
    return [4 * 2 * source.nbytes / s for s in seconds]


def _counted(part: Callable[..., Update], inputs: list[Tensor]) -> tuple[float, float]:
    """(floating-point operations of convolutions and products, bytes of operands and results) of one call."""
    with FlopCounterMode(display=False) as flops:
        part(*inputs)
    with _Bytes() as moved:
        part(*inputs)
    return float(flops.get_total_flops()), float(moved.total)


class _Bytes(TorchDispatchMode):
    """Adds up what each operator reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = {x.data_ptr() for x in tree_leaves(out) if isinstance(x, Tensor)}
        read = {x.data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if (not func.is_view and not made <= read) or "_" == func._schema.name[-1:]:
            self.total += sum(x.nbytes for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        return out
