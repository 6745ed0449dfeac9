"""The Ray that work runs on: connect to it or start one here, and see what fits."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import ray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from compgan_core.errors import CapacityError
from orchestrator.runtime.deepspeed_engine import check_zero_stage

MIB = 1 << 20
NODE_GROUP = "ray.io/node-group"  # the label that cluster launchers and KubeRay put on the nodes they manage

Resources = dict[str, float]


class Workers(BaseModel):
    """How a stage runs. Nothing here changes what it makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(1, ge=1)
    zero_stage: int = 0
    use_gpu: bool | None = None
    """None: if the cluster has any."""
    cpus_per_worker: int | None = Field(None, ge=1)
    """None: as many as fit when all workers get the same."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint that killed or crashed workers may cost. Preempted nodes do not count."""
    checkpoint_every_s: float = Field(60.0, gt=0)
    checkpoint_every_steps: int = Field(0, ge=0)
    """If not 0, this decides instead of the seconds."""
    keep_checkpoints: int = Field(2, ge=1)
    start_timeout_s: float = Field(600.0, gt=0)
    collective_timeout_s: float = Field(300.0, gt=0)

    @field_validator("zero_stage")
    @classmethod
    def _supported(cls, zero_stage: int) -> int:
        check_zero_stage(zero_stage)
        return zero_stage


def start_ray(
    address: str | None = None, num_cpus: int | None = None, *, dashboard: bool = True, temp_dir: str | None = None
) -> None:
    """Connect to the cluster at `address` or RAY_ADDRESS, or start Ray on this machine. Does nothing if connected.

    num_cpus, dashboard and temp_dir are for a Ray that is started here. Raises CapacityError if there is no cluster.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in _environment(address == "local").items():
        os.environ.setdefault(name, value)
    options: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {
            "num_cpus": num_cpus,
            "include_dashboard": dashboard,
            "object_store_memory": 200 * MIB,  # Train puts nothing large into it
            "_temp_dir": temp_dir,
        }
    try:
        ray.init(address, **options)
    except ConnectionError as error:
        raise CapacityError(f"there is no Ray cluster at {address}: {error}") from error


def resources_per_worker(workers: Workers) -> Resources:
    """What each worker will ask for. Raises CapacityError if that can never be placed on the nodes there are."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = [node["Resources"] for node in nodes]
    use_gpu = any("GPU" in r for r in resources) if workers.use_gpu is None else workers.use_gpu
    accelerator = {"GPU": 1.0} if use_gpu else {}
    most = int(max((r.get("CPU", 0) for r in resources), default=0))
    choices = [workers.cpus_per_worker] if workers.cpus_per_worker else range(most, 0, -1)
    for cpus in choices:
        asked = {"CPU": float(cpus), **accelerator}
        if _places(resources, asked) >= workers.num_workers:
            return asked
    asked = {"CPU": float(workers.cpus_per_worker or 1), **accelerator}
    if any(NODE_GROUP in node["Labels"] for node in nodes):
        return asked  # an autoscaler may bring nodes; if not, the start timeout says so
    raise CapacityError(f"{arithmetic(workers.num_workers, asked)}; ask for fewer workers or add nodes")


def arithmetic(num_workers: int, asked: Resources) -> str:
    """What was asked for, and what there is."""
    wanted = ", ".join(
        f"{num_workers} workers x {n:g} {name} = {num_workers * n:g} {name}" for name, n in asked.items()
    )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = ", ".join(f"{sum(r.get(name, 0) for r in nodes):g} {name}" for name in asked)
    largest = ", ".join(f"{max((r.get(name, 0) for r in nodes), default=0):g} {name}" for name in asked)
    return f"asked {wanted}, the cluster has {total}" + (f", at most {largest} on one node" if len(nodes) > 1 else "")


def _places(nodes: Sequence[Resources], asked: Resources) -> int:
    """How many workers fit, none of which can span two nodes."""
    return sum(int(min(node.get(name, 0) // n for name, n in asked.items())) for node in nodes)


def _environment(local: bool) -> dict[str, str]:
    """What Ray reads from the environment, unless the user has set it."""
    variables = {
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's Train page stays empty
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # then it asks again; until then its controller is deaf
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if local:
        variables |= {
            "RAY_AUTH_MODE": "disabled",  # explicit, or job submission from another shell is refused
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller's poll, which a checkpoint waits for
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away; saves a process
        }
    return variables
