"""What a cluster file costs an hour, and what a stage costs on it, from prices that the user gives."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, Field, ValidationError

from compgan_core.errors import CapacityError, ConfigurationError, did_you_mean
from orchestrator.artifacts.artifacts import Record
from orchestrator.cluster_files import ClusterFile, Machines


class Prices(BaseModel, frozen=True, extra="forbid"):
    """A price file: what one machine, or pod, of each kind costs an hour."""

    currency: str
    per_hour: dict[str, float] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> Prices:
        """Raises ConfigurationError with what is wrong."""
        try:
            prices = cls.model_validate(yaml.safe_load(path.read_text()))
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error.strerror}): copy cluster/prices.example.yaml"
            ) from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not YAML: see cluster/prices.example.yaml") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its top"
            raise ConfigurationError(f"{path}, {where}: {first['msg']}: see cluster/prices.example.yaml") from error
        wrong = [name for name, price in prices.per_hour.items() if not 0 <= price < math.inf]
        if wrong:
            raise ConfigurationError(
                f"{path} has the price {prices.per_hour[wrong[0]]} for {wrong[0]}: 0 or more is allowed"
            )
        return prices

    def of(self, machines: Machines) -> float:
        """Raises ConfigurationError if there is no price for it."""
        if machines.price_name not in self.per_hour:
            near = did_you_mean(machines.price_name, list(self.per_hour))
            raise ConfigurationError(f"the prices have none for {machines.price_name!r} (of {machines.name}); {near}")
        return self.per_hour[machines.price_name]


class GroupCost(BaseModel, frozen=True):
    """Equal machines that run at once, and what they are."""

    name: str
    machine: str
    count: int
    gpus: float
    memory_gib: float | None
    per_hour: float


class StageCost(BaseModel, frozen=True):
    """Recorded stages of one kind. `each`: the cost of one of average length."""

    kind: str
    runs: int
    mean_seconds: float
    each: float


def group_costs(file: ClusterFile, prices: Prices, workers: int | None) -> list[GroupCost]:
    """The machines that `workers` training workers need; None: all that the cluster may ever have.

    Workers are put on the head first, then on the groups in the file's order, one GPU each where there is any.
    Raises CapacityError if the cluster cannot hold them.
    """
    counts = [m.most for m in file.machines] if workers is None else _needed(file.machines, workers)
    return [
        GroupCost(
            name=machines.name,
            machine=machines.price_name,
            count=count,
            gpus=count * (machines.gpus or 0),
            memory_gib=None if machines.memory_gib is None else count * machines.memory_gib,
            per_hour=count * prices.of(machines),
        )
        for machines, count in zip(file.machines, counts, strict=True)
    ]


def _needed(groups: Sequence[Machines], workers: int) -> list[int]:
    on_gpus = any(group.gpus for group in groups)
    left, counts = workers, []
    for group in groups:
        each = int((group.gpus if on_gpus else group.cpus) or 0)
        count = max(group.least, min(group.most, math.ceil(left / each) if each else 0))
        left = max(0, left - count * each)
        counts.append(count)
    if left:
        unit = "GPUs" if on_gpus else "CPUs"
        has = sum(group.most * int((group.gpus if on_gpus else group.cpus) or 0) for group in groups)
        raise CapacityError(f"{workers} workers were asked for and the cluster has at most {has} {unit}: ask for fewer")
    return counts


def stage_costs(records: Iterable[Record], per_hour: float) -> list[StageCost]:
    """What the stages of each kind would cost, if they ran on this cluster for the seconds of their records."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for record in records:
        seconds[record.stage].append(record.seconds)
    return [
        StageCost(kind=kind, runs=len(all_), mean_seconds=(mean := sum(all_) / len(all_)), each=mean / 3600 * per_hour)
        for kind, all_ in seconds.items()
    ]
