"""The Ray that work runs on: connect to it or start one here, and see what fits."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import ActorID, PlacementGroupID
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY
from ray.util.placement_group import PlacementGroup, remove_placement_group

from compgan_core.errors import CapacityError, ConfigurationError
from orchestrator.runtime.deepspeed_engine import check_zero_stage

MIB = 1 << 20
NODE_GROUP = "ray.io/node-group"  # the label that cluster launchers and KubeRay put on the nodes they manage

Resources = dict[str, float]


class Workers(BaseModel):
    """How a stage runs. Nothing here changes what it makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(1, ge=1)
    fewer: tuple[int, ...] = ()
    """Smaller numbers of workers that will do while there is no room for so many."""
    zero_stage: int = 0
    use_gpu: bool | None = None
    """None: if the cluster has any."""
    cpus_per_worker: int | None = Field(None, ge=1)
    """None: as many as fit when all workers get the same."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint that killed or crashed workers may cost. Preempted nodes do not count."""
    recompute: bool = False
    """Comp-GAN's generators keep faces only, and compute their activations again on the way back."""
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

    num_cpus, dashboard (never if COMPGAN_DASHBOARD is 0) and temp_dir are for a Ray that is started here.

    Raises CapacityError if there is no cluster, ConfigurationError if the address is that of a dashboard.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise ConfigurationError(f"{address} is a dashboard, which this command cannot use: unset RAY_ADDRESS")
    for name, value in _environment(address == "local").items():
        os.environ.setdefault(name, value)
    options: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        _provide_token()
        options |= {
            "num_cpus": num_cpus,
            "include_dashboard": dashboard and os.environ.get("COMPGAN_DASHBOARD") != "0",
            "object_store_memory": 200 * MIB,  # Train puts nothing large into it
            "_temp_dir": temp_dir,
        }
    try:
        ray.init(address, **options)
    except ConnectionError as error:
        raise CapacityError(f"there is no Ray cluster at {address}: {error}") from error


def address_of() -> str:
    """The cluster that this process is connected to, as host:port."""
    return str(ray.get_runtime_context().gcs_address)


def job_of() -> str:
    """The job of Ray's job server that this process drives; empty if it was not submitted."""
    told = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return str(told.get("metadata", {}).get(JOB_ID_METADATA_KEY, ""))


def resources_per_worker(workers: Workers) -> Resources:
    """What each worker will ask for. Raises CapacityError if that can never be placed on this cluster."""
    nodes = alive_nodes()
    resources = [node["Resources"] for node in nodes]
    less = [workers.model_copy(update={"num_workers": n}) for n in workers.fewer]
    growing = any(NODE_GROUP in node["Labels"] for node in nodes) or any(_fits(w, resources) for w in less)
    if growing and not _fits(workers, resources):
        return _least(workers, resources)  # nodes may come; if none does, the start timeout says so
    return place(workers, resources)


def place(workers: Workers, nodes: Sequence[Resources]) -> Resources:
    """What each worker can have on these nodes. Raises CapacityError, with the arithmetic, if they do not all fit."""
    fitting = _fits(workers, nodes)
    if not fitting:
        asked = arithmetic(workers, _least(workers, nodes), nodes)
        raise CapacityError(f"{asked}; ask for fewer workers or add nodes")
    return fitting


def arithmetic(workers: Workers, asked: Resources, nodes: Sequence[Resources]) -> str:
    """What was asked for, and what there is."""
    n = workers.num_workers
    count = "1 worker" if n == 1 else f"{n} workers"
    wanted = ", ".join(f"{count} x {each:g} {name} = {n * each:g} {name}" for name, each in asked.items())
    total = ", ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}" for name in asked)
    largest = ", ".join(f"{max((node.get(name, 0) for node in nodes), default=0):g} {name}" for name in asked)
    return f"asked {wanted}, the cluster has {total}" + (f", at most {largest} on one node" if len(nodes) > 1 else "")


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def free_orphans() -> None:
    """Give back what this job's dead actors had reserved.

    Ray keeps a placement group until the job ends when the actor that made it was killed. Ray Train has a cleaner for
    that, which needs the dashboard and fails on a machine with several Rays.
    """
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    for data in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        gone = group.state == PlacementGroupTableData.REMOVED
        by_actor = group.creator_actor_id not in (b"", ActorID.nil().binary())
        if group.creator_job_id == job and by_actor and group.creator_actor_dead and not gone:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _fits(workers: Workers, nodes: Sequence[Resources]) -> Resources | None:
    """The most that all workers can have alike, none of which can span two nodes."""
    least = _least(workers, nodes)
    most = workers.cpus_per_worker or int(max((node.get("CPU", 0) for node in nodes), default=0))
    for cpus in range(most, int(least["CPU"]) - 1, -1):
        asked = least | {"CPU": float(cpus)}
        if sum(int(min(node.get(name, 0) // n for name, n in asked.items())) for node in nodes) >= workers.num_workers:
            return asked
    return None


def _least(workers: Workers, nodes: Sequence[Resources]) -> Resources:
    use_gpu = any(node.get("GPU") for node in nodes) if workers.use_gpu is None else workers.use_gpu
    return {"CPU": float(workers.cpus_per_worker or 1)} | ({"GPU": 1.0} if use_gpu else {})


def _provide_token() -> None:
    """See to it that Ray finds its token: what it makes itself may be read by every user of the machine."""
    path = Path("~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or path.exists():
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.touch(mode=0o600)
    partial.write_text(secrets.token_hex(32))
    partial.rename(path)


def _environment(local: bool) -> dict[str, str]:
    """What Ray reads from the environment, unless the user has set it."""
    variables = {
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's Train page stays empty
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # then it asks again; until then its controller is deaf
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if local:
        variables |= {
            "RAY_worker_niceness": "0",  # 15 lets any other process of this machine starve the training
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller's poll, which a checkpoint waits for
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away; saves a process
        }
    return variables
