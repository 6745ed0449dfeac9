"""One thing to compute, once, and what will become of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from pydantic import BaseModel

from compgan_core.errors import ConfigurationError
from compgan_core.training.optim import Schedule
from orchestrator.artifacts.fingerprint import fingerprint
from orchestrator.datasets import Dataset
from orchestrator.ingest import FACES, VERSION

# Raised by hand when a stage's code would make something else from the same arguments.
VERSIONS: dict[str, int] = {
    FACES: VERSION,
    # 2: convolutions in another memory layout and fused optimizers, which round otherwise.
    **dict.fromkeys(("pretrain", "classifier", "judge", "compgan", "finetune", "combine"), 2),
    **dict.fromkeys(("supervised", "attributes"), 2),  # 2: networks that start from scratch start from other weights
    "evaluate": 2,  # 2: keeps what was read in each test image, for paired tests
    "quality": 2,  # 2: keeps what was read in each edit, for the same
}


@dataclass(frozen=True, eq=False)
class Stage:
    """One thing to compute, once."""

    kind: str
    """The function of `compgan_core.stages`, and the stage's name in the store."""
    arguments: Mapping[str, Any]
    inputs: Mapping[str, Stage | Dataset]
    label: str = ""
    """Tells stages of one kind apart for a reader: variant and draw."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.label}".strip()

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The arguments as JSON can hold them."""
        return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in self.arguments.items()}

    @cached_property
    def fingerprint(self) -> str:
        inputs = {name: stage.fingerprint for name, stage in self.inputs.items()}
        return fingerprint(self.kind, VERSIONS.get(self.kind, 1), self.recipe, inputs)

    def stage_inputs(self) -> list[Stage]:
        return [stage for stage in self.inputs.values() if isinstance(stage, Stage)]


@dataclass(frozen=True)
class Step:
    """A stage, and what will become of it."""

    stage: Stage
    state: Literal["cached", "run", "not needed"]
    why: str


@dataclass(frozen=True)
class Plan:
    """What a study would do, given what the store holds."""

    steps: tuple[Step, ...]

    @property
    def to_run(self) -> tuple[Stage, ...]:
        """Each fingerprint once: without added images, variants share their measures."""
        return tuple({step.stage.fingerprint: step.stage for step in self.steps if step.state == "run"}.values())

    @property
    def to_train(self) -> tuple[Stage, ...]:
        """Those to run on training workers: all but the tensor cache, which every core of the cluster helps to make."""
        return tuple(stage for stage in self.to_run if stage.kind != FACES)

    def check_workers(self, counts: Iterable[int]) -> None:
        """Raise ConfigurationError if a stage trains on batches that do not divide over one of these numbers."""
        for stage, n in product(self.to_train, counts):
            for batch in _batches(stage.arguments.values()):
                if batch % n:
                    raise ConfigurationError(
                        f"{stage.name} trains on batches of {batch}, which do not divide over {n} workers: use "
                        f"{', '.join(str(d) for d in range(1, batch + 1) if batch % d == 0)}, or another schedule.batch"
                    )

    def sizes(self, counts: Iterable[int]) -> tuple[int, ...]:
        """Those of these numbers of workers over which the batches of every stage divide."""
        batches = [batch for stage in self.to_train for batch in _batches(stage.arguments.values())]
        return tuple(n for n in counts if not any(batch % n for batch in batches))


def _batches(values: Iterable[object]) -> Iterator[int]:
    """Of every schedule in a stage's arguments."""
    for value in values:
        if isinstance(value, Schedule):
            yield value.batch
        elif isinstance(value, BaseModel):
            yield from _batches(vars(value).values())
