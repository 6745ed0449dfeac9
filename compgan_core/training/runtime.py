"""What the training loops need of the outside: an Engine for each network, and one Runtime.

The loops compute gradients with `torch.autograd.grad` and hand them over; an Engine averages them over the workers and
updates. So no loop calls `backward`, no gradient can reach a network that was not asked for, and everything that is
peculiar to a distributed engine stays inside that engine. `Local` and `LocalEngine` are the whole thing for one
process; the orchestrator has others of the same shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compgan_core.errors import ConfigurationError

State = Mapping[str, Tensor]
Observer = Callable[[int, int, Mapping[str, nn.Module]], None]
"""Takes what `Runtime.observe` takes."""


class Engine(Protocol):
    """One network, its optimizer, and how its gradients are averaged over the workers."""

    module: nn.Module

    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        """Average over the workers, clip, update. Collective.

        gradients: float32, one for each of `trainable(module)`, in that order, of this worker's share of the batch.
        lr: base learning rate; each parameter group multiplies it by its own `lr_multiplier`.
        """

    def state(self) -> State:
        """Whole float32 parameters, buffers and optimizer state, as if one process held them. Collective.

        Keys: `module.<name>`, `optimizer.<parameter name>.<slot>`. The same for every engine and number of workers.
        """

    def load_state(self, state: State) -> None:
        """Continue from `state()` of any engine at any number of workers. Collective."""


class Runtime(Protocol):
    """Where a loop runs: its place among the workers, and where progress and checkpoints go."""

    rank: int
    world_size: int
    device: torch.device
    recompute: bool
    """Whether generators spend time to save memory; the result is the same."""

    def engine(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Engine:
        """Wrap a network. max_grad_norm: 2-norm over all its gradients after averaging; 0 turns clipping off."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all workers. Collective."""

    def barrier(self) -> None:
        """Wait for all workers. Collective."""

    def report(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Progress, for whoever watches. Called on rank 0 only; cheap enough to be called at every step."""

    def observe(self, step: int, steps: int, networks: Mapping[str, nn.Module]) -> None:
        """Called after each step of Comp-GAN training by every worker, with "pose", "exp" and "discriminator".

        Must not change what it is given: the mode of the networks, and every random state, are to be put back.
        """

    def checkpoint_due(self, step: int) -> bool:
        """Whether this worker thinks it is time to save; the loop asks all workers and rank 0 decides."""

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep what `write(directory)` writes on rank 0, at the latest once the next one is saved. Collective."""

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The directory that the newest complete checkpoint of the present stage was written to, if any. Collective."""


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer may change, in the module's own order."""
    return [p for p in module.parameters() if p.requires_grad]


def share(runtime: Runtime, n: int) -> slice:
    """This worker's contiguous part of a global batch of n."""
    if n % runtime.world_size:
        raise ConfigurationError(
            f"a batch of {n} does not divide over {runtime.world_size} workers: use a number of workers that divides "
            "it, or another batch"
        )
    each = n // runtime.world_size
    return slice(runtime.rank * each, (runtime.rank + 1) * each)


def save_state(path: Path, state: State, **facts: object) -> None:
    """Write tensors, and facts that JSON can hold, as one safetensors file."""
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in state.items()}
    save_file(tensors, path, metadata={"facts": json.dumps(facts)})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_state` wrote: (tensors on the CPU, facts). Nothing is unpickled."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, facts


class LocalEngine:
    """Plain torch, one process. The reference that every other engine is tested against."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float):
        self.module, self.optimizer, self.max_grad_norm = module, optimizer, max_grad_norm

    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        parameters = trainable(self.module)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # Fused optimizers go over memory, so a gradient must lie as its weights do.
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        if self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> State:
        names = {id(p): name for name, p in self.module.named_parameters()}
        state = {f"module.{name}": t for name, t in self.module.state_dict().items()}
        for parameter, slots in self.optimizer.state.items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    state[f"optimizer.{names[id(parameter)]}.{slot}"] = value
        return state

    def load_state(self, state: State) -> None:
        self.module.load_state_dict(sub_state(state, "module."))
        self.optimizer.state.clear()
        for name, parameter in self.module.named_parameters():
            slots = sub_state(state, f"optimizer.{name}.")
            if slots:
                self.optimizer.state[parameter] = {
                    slot: torch.empty_like(parameter if value.ndim else value, device=parameter.device).copy_(value)
                    for slot, value in slots.items()
                }


def sub_state(state: State, prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group's rate from the base rate and the group's own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_multiplier", 1.0)


class Local:
    """The Runtime of one process. Checkpoints go to a directory, progress to a callback."""

    rank, world_size = 0, 1
    recompute = False

    def __init__(
        self,
        device: str | torch.device = "cpu",
        checkpoints: Path | None = None,
        checkpoint_every_steps: int = 0,
        on_report: Callable[[int, int, Mapping[str, float]], None] | None = None,
    ):
        self.device = torch.device(device)
        self.checkpoints, self.checkpoint_every_steps, self.on_report = checkpoints, checkpoint_every_steps, on_report

    def engine(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Engine:
        return LocalEngine(module, optimizer, max_grad_norm)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def barrier(self) -> None:
        pass

    def report(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if self.on_report:
            self.on_report(step, steps, metrics)

    def observe(self, step: int, steps: int, networks: Mapping[str, nn.Module]) -> None:
        pass

    def checkpoint_due(self, step: int) -> bool:
        every = self.checkpoint_every_steps
        return bool(self.checkpoints and every and step % every == 0)

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        assert self.checkpoints is not None
        target = self.checkpoints / f"step-{step:08d}"
        partial = target.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(target)  # a directory without the suffix is complete

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        found = sorted(self.checkpoints.glob("step-????????")) if self.checkpoints else []
        yield found[-1] if found else None


def over_workers(runtime: Runtime, n: int, chunk: int, compute: Callable[[slice], Tensor]) -> Tensor:
    """The rows 0..n of a table, each worker computing some chunks of it; every worker gets the whole. Collective.

    compute(rows) -> (len(rows), ...). The chunks do not depend on the number of workers, so neither do their contents,
    even where a kernel rounds differently for another batch size.
    """
    table: Tensor | None = None
    starts = range(0, n, chunk)
    for i, start in enumerate(starts):
        # Every worker computes the first chunk, to learn the shape of a row; only its owner contributes it.
        if i and i % runtime.world_size != runtime.rank:
            continue
        rows = slice(start, min(start + chunk, n))
        values = compute(rows)
        if table is None:
            table = values.new_zeros((n, *values.shape[1:]))
        if i % runtime.world_size == runtime.rank:
            table[rows] = values
    if table is None:
        raise ValueError("over_workers needs at least one row")
    return runtime.all_reduce_sum(table)
