"""The Engine that DeepSpeed drives: ZeRO stage 0, 1 or 2, float32, one backward for each step.

DeepSpeed never sees a loss. The loops hand over finished gradients, and a surrogate whose derivative is exactly those
tensors carries them through `engine.backward`. So its hooks, which go wrong when a network stands twice in a graph or
takes two backwards, meet every parameter once in a step.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from compgan_core.errors import ConfigurationError, DivergenceError
from compgan_core.training.runtime import LocalEngine, State, set_lr, sub_state, trainable


class DeepSpeedEngine:
    """An Engine over the default process group, which must exist already, also for one worker.

    optimizer: torch's SGD, Adam or AdamW. Apart from `step` their state is elementwise, so ZeRO may cut it anywhere.
    max_grad_norm: 2-norm over all gradients after averaging; 0 turns clipping off.
    zero_stage: 0, 1 or 2; ConfigurationError otherwise.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float, zero_stage: int):
        check_zero_stage(zero_stage)
        assert distributed.is_initialized()
        self.module = module
        self._optimizer = optimizer
        self._engine = _initialize(module, optimizer, max_grad_norm, zero_stage)
        self._zero: Any = self._engine.optimizer if zero_stage else None
        # Its hooks tie it to the parameters in a circle that Python cannot see, and it would never be freed.
        weakref.finalize(self, self._engine.destroy).atexit = False

    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        """As Engine. The gradients are used up. Raises DivergenceError where ZeRO would skip the update silently."""
        set_lr(self._optimizer, lr)
        self._engine.backward(_Surrogate.apply(tuple(gradients), *trainable(self.module)))
        self._engine.step()
        if not self._engine.was_step_applied():
            raise DivergenceError("a gradient is not finite after averaging over the workers; no update was made")

    def state(self) -> State:
        """As Engine; every worker returns the whole of it."""
        if not self._zero:
            return LocalEngine(self.module, self._optimizer, 0).state()
        state = {f"module.{name}": t for name, t in self.module.state_dict().items()}
        for partition, members in self._groups():
            slots = {slot: t for slot, t in self._optimizer.state.get(partition, {}).items() if isinstance(t, Tensor)}
            for slot, value in slots.items():
                flat = None if slot == "step" else _gather(value)
                for name, parameter in members.items():
                    whole = value if flat is None else _place(flat, parameter)
                    state[f"optimizer.{name}.{slot}"] = whole.clone()
        return state

    def load_state(self, state: State) -> None:
        """As Engine."""
        self._optimizer.state.clear()
        if not self._zero:
            return LocalEngine(self.module, self._optimizer, 0).load_state(state)
        self.module.load_state_dict(sub_state(state, "module."))
        self._zero.refresh_fp32_params()
        for partition, members in self._groups():
            first = f"optimizer.{next(iter(members))}."
            for slot, value in sub_state(state, first).items():
                if slot != "step":
                    flat = partition.new_zeros(partition.numel() * distributed.get_world_size())
                    for name, parameter in members.items():
                        _place(flat, parameter).copy_(state[f"optimizer.{name}.{slot}"])
                    value = flat.chunk(distributed.get_world_size())[distributed.get_rank()]
                self._optimizer.state[partition][slot] = value.to(partition.device, copy=True)

    def _groups(self) -> list[tuple[Tensor, dict[str, nn.Parameter]]]:
        """For each parameter group: this worker's flat partition of it, and the parameters it was made of."""
        names = {id(p): name for name, p in self.module.named_parameters()}
        members = [{names[id(p)]: p for p in group} for group in self._zero.bit16_groups]
        return list(zip(self._zero.single_partition_of_fp32_groups, members, strict=True))


def check_zero_stage(zero_stage: int) -> None:
    """Refuse what these networks cannot gain from."""
    if zero_stage not in (0, 1, 2):
        raise ConfigurationError(
            f"ZeRO stage {zero_stage} is not supported, because networks of a few tens of megabytes only lose time when"
            " they are cut into pieces and fetched again for every layer; use 0, 1 or 2"
        )


class _Surrogate(torch.autograd.Function):
    """A scalar whose derivative by each parameter is the tensor that was given for it."""

    @staticmethod
    def forward(ctx: Any, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


def _place(flat: Tensor, parameter: nn.Parameter) -> Tensor:
    """The part of a group's flat tensor that belongs to a parameter, which ZeRO made a view of such a tensor itself."""
    return flat[parameter.storage_offset() :][: parameter.numel()].view_as(parameter)


def _gather(partition: Tensor) -> Tensor:
    flat = partition.new_empty(partition.numel() * distributed.get_world_size())
    distributed.all_gather(list(flat.chunk(distributed.get_world_size())), partition)
    return flat


@contextmanager
def _without(package: str) -> Iterator[None]:
    """As if it were not installed, for those who import it meanwhile and can do without."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float, zero_stage: int) -> Any:
    on_cpu = next(module.parameters()).device.type == "cpu"
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _without("mlflow"):  # which it imports if it is there, for its autotuner: 0.6 of 0.8 seconds
        import deepspeed  # takes seconds, and only workers need it
    from deepspeed.ops import __compatible_ops__

    if on_cpu:
        __compatible_ops__["deepspeed_shm_comm"] = (
            False  # else the first start compiles it for minutes; never used here
        )
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*all_gather_into_tensor.* is deprecated", FutureWarning)  # DeepSpeed's own call
    config = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed insists on one; the loops own the batch
        "gradient_clipping": max_grad_norm,
        "zero_allow_untested_optimizer": True,  # SGD is not on its list; tests/parity covers it
        "zero_optimization": {"stage": zero_stage, "reduce_bucket_size": sum(p.numel() for p in trainable(module))},
        "timers": {"throughput": {"enabled": False}},  # it would synchronise the device at every forward
    }
    # It sends weights as bytes, and from ZeRO 1 on keeps them in one flat tensor; both need them contiguous.
    laid_out = {
        p: p.data.clone() for p in module.parameters() if (p.dim() and p.stride(-1) != 1) or not p.is_contiguous()
    }
    for parameter in laid_out:  # cloned: 1 x 1 kernels in channels_last call themselves contiguous
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
    if not zero_stage:
        for parameter, data in laid_out.items():
            parameter.data = data.copy_(parameter.data)
    return engine
