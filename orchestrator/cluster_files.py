"""Cluster files, of `ray up` and of KubeRay: what machines they ask for, and what is wrong with them.

A `ray up` file is held against the schema that Ray itself ships. KubeRay's own schema lives in its operator; here the
fields of its v1 API are listed in `kuberay.json`, and the rest of a pod is left to Kubernetes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from compgan_core.errors import ConfigurationError

GIB = 1 << 30
OWN, FAKE = "local", "fake_multinode"
"""Ray's providers of machines that are there already, and of one machine that pretends to be several."""
KUBERAY_KINDS = ("RayCluster", "RayJob")
GPU_OF_PODS = "nvidia.com/gpu"
SHARED_MEMORY_GIB = 1.0
"""What Ray's object store, which holds little here, and NCCL want of /dev/shm."""
MEMORY_PER_WORKER_GIB = 6.0
"""A training worker with torch, DeepSpeed and the `paper` preset's networks and optimizer state."""
BASE_DISK_GIB = 40.0
"""System, image, logs of Ray, and the checkpoints under way."""
CACHED_IMAGE_BYTES = 144 * 144 * 3
"""Of the tensor cache, per image, in the `paper` preset."""
MAX_IDLE_MINUTES = 60
KEY = re.compile(r"AKIA[0-9A-Z]{16}|AWS_SECRET_ACCESS_KEY[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{16,}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """A group of equal machines, or pods. None: the file does not say."""

    name: str
    machine: str
    """The provider's name for it, which prices go by; without one, the group's name."""
    least: int
    most: int
    is_head: bool = False
    spot: bool = False
    cpus: float | None = None
    gpus: float | None = None
    memory_gib: float | None = None
    disk_gib: float | None = None
    shm_gib: float | None = None

    @property
    def price_name(self) -> str:
        return f"{self.machine} spot" if self.spot else self.machine


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file that has the right form."""

    path: Path
    content: dict[str, Any]
    machines: tuple[Machines, ...]
    """The head is the first."""

    @property
    def is_kuberay(self) -> bool:
        return "kind" in self.content

    @property
    def is_here(self) -> bool:
        """All of it is the machine that it is started on."""
        provider = self.content.get("provider", {}).get("type")
        return provider == FAKE or (provider == OWN and len(self.machines) == 1)

    @property
    def cluster(self) -> dict[str, Any]:
        """What describes the cluster itself: on KubeRay, the specification of a RayCluster."""
        if not self.is_kuberay:
            return self.content
        spec: dict[str, Any] = self.content["spec"]
        return spec["rayClusterSpec"] if self.content["kind"] == "RayJob" else spec


def read(path: Path) -> ClusterFile:
    """Raises ConfigurationError if it is no cluster file, with the first place where its form is wrong."""
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): name a file of cluster/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not YAML ({problem}): see cluster/ for files that are") from error
    found = [d for d in documents if isinstance(d, dict) and ("provider" in d or d.get("kind") in KUBERAY_KINDS)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{path} holds {len(found)} clusters: one of `ray up` (with a provider), or of KubeRay "
            f"(kind {' or '.join(KUBERAY_KINDS)}), is allowed"
        )
    content = found[0]
    kuberay = "kind" in content
    _check_form(path, content, _schema(_kuberay_schema() if kuberay else _ray_schema()))
    file = ClusterFile(path, content, ())
    machines = _pods(file.cluster) if kuberay else _nodes(path, content)
    return ClusterFile(path, content, tuple(machines))


@cache
def _schema(path: Path) -> Draft7Validator:
    return Draft7Validator(json.loads(path.read_text()))


def _ray_schema() -> Path:
    spec = find_spec("ray")
    assert spec and spec.origin
    return Path(spec.origin).parent / "autoscaler/ray-schema.json"  # importing ray takes a second, and is not needed


def _kuberay_schema() -> Path:
    return Path(__file__).with_name("kuberay.json")


def _check_form(path: Path, content: dict[str, Any], schema: Draft7Validator) -> None:
    error = best_match(schema.iter_errors(content))
    if error:
        where = ".".join(map(str, error.absolute_path)) or "its top"
        raise ConfigurationError(f"{path} has a wrong form at {where}: {error.message[:300]}")


def _nodes(path: Path, content: Mapping[str, Any]) -> Iterator[Machines]:
    provider = content["provider"]["type"]
    if provider == OWN:
        own = content.get("metadata", {}).get("machine", {})
        facts = {"cpus": own.get("CPU"), "gpus": own.get("GPU", 0) if own else None}
        facts |= {name: own.get(name) for name in ("memory_gib", "disk_gib", "shm_gib")}
        workers = len(content["provider"].get("worker_ips", []))
        yield Machines(name="head", machine="local", least=1, most=1, is_head=True, **facts)
        if workers:
            yield Machines(name="workers", machine="local", least=workers, most=workers, **facts)
        return
    types = content.get("available_node_types", {})
    head = content.get("head_node_type", "")
    if head not in types:
        raise ConfigurationError(
            f"{path} names the head_node_type {head!r}: one of {', '.join(types) or 'none'} it has"
        )
    at_most = content.get("max_workers", 2)  # Ray's default
    for name in sorted(types, key=lambda name: name != head):
        yield _node(name, types[name], at_most, name == head, content.get("docker", {}))


def _node(name: str, node: Mapping[str, Any], at_most: int, is_head: bool, docker: Mapping[str, Any]) -> Machines:
    config, resources = node["node_config"], node["resources"]
    least = node.get("min_workers", 0)
    extra = 1 if is_head else 0
    scheduling = config.get("scheduling", {})
    scheduling = {k: v for part in scheduling for k, v in part.items()} if isinstance(scheduling, list) else scheduling
    spot = config.get("InstanceMarketOptions", {}).get("MarketType") == "spot" or bool(scheduling.get("preemptible"))
    disks = [disk.get("Ebs", {}).get("VolumeSize") for disk in config.get("BlockDeviceMappings", [])]
    disks += [disk.get("initializeParams", {}).get("diskSizeGb") for disk in config.get("disks", [])]
    memory = resources.get("memory")
    return Machines(
        name=name,
        machine=str(config.get("InstanceType") or config.get("machineType") or name).rpartition("/")[2],
        least=least + extra,
        most=max(least, min(node.get("max_workers", least if is_head else at_most), at_most)) + extra,
        is_head=is_head,
        spot=spot or scheduling.get("provisioningModel") == "SPOT",
        cpus=resources.get("CPU"),
        gpus=resources.get("GPU", 0),
        memory_gib=memory and memory / GIB,
        disk_gib=sum(float(size) for size in disks if size) or None,
        shm_gib=_docker_shm(docker, is_head),
    )


def _docker_shm(docker: Mapping[str, Any], is_head: bool) -> float | None:
    """What the file gives a container. Without a word, Ray gives it a share of the memory when it starts."""
    if not docker:
        return None
    options = " ".join(
        [*docker.get("run_options", []), *docker.get(f"{'head' if is_head else 'worker'}_run_options", [])]
    )
    said = re.search(r"--shm-size[= ]'?\"?([\d.]+)\s*([bkmg]?)", options, re.IGNORECASE)
    if said:
        return float(said[1]) * {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[said[2].lower()] / GIB
    return 64 / 1024 if docker.get("disable_shm_size_detection") and "--ipc=host" not in options else None


def _pods(cluster: Mapping[str, Any]) -> Iterator[Machines]:
    yield _pod("head", cluster["headGroupSpec"], 1, 1, is_head=True)
    for group in cluster.get("workerGroupSpecs", []):
        hosts = group.get("numOfHosts", 1)
        replicas, scales = group.get("replicas", 0), cluster.get("enableInTreeAutoscaling", False)
        least = group.get("minReplicas", replicas) if scales else replicas
        most = group.get("maxReplicas", replicas) if scales else replicas
        yield _pod(group["groupName"], group, least * hosts, most * hosts)


def _pod(name: str, group: Mapping[str, Any], least: int, most: int, is_head: bool = False) -> Machines:
    pod = group["template"]["spec"]
    container = pod["containers"][0]  # KubeRay runs Ray in the first
    asked = container.get("resources", {})
    asked = {**asked.get("requests", {}), **asked.get("limits", {})}
    started = group.get("rayStartParams", {})
    mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
    volume: dict[str, Any] = next((v for v in pod.get("volumes", []) if v["name"] == mounts.get("/dev/shm")), {})
    in_memory = volume.get("emptyDir", {}).get("medium") == "Memory"
    memory = quantity(asked["memory"]) / GIB if "memory" in asked else None
    shm = quantity(volume["emptyDir"]["sizeLimit"]) / GIB if in_memory and "sizeLimit" in volume["emptyDir"] else memory
    cpus = started.get("num-cpus", asked.get("cpu"))
    selector = pod.get("nodeSelector", {})
    return Machines(
        name=name,
        machine=selector.get("node.kubernetes.io/instance-type", name),
        least=least,
        most=most,
        is_head=is_head,
        spot=any("spot" in f"{key}={value}".lower() for key, value in selector.items()),
        cpus=None if cpus is None else quantity(cpus),
        gpus=quantity(started.get("num-gpus", asked.get(GPU_OF_PODS, 0))),
        memory_gib=memory,
        disk_gib=quantity(asked["ephemeral-storage"]) / GIB if "ephemeral-storage" in asked else None,
        shm_gib=shm if in_memory else 64 / 1024,
    )


def quantity(text: object) -> float:
    """A quantity of Kubernetes, as 64Gi, 500m or 2, in units. Raises ConfigurationError for anything else."""
    said = re.fullmatch(r"([\d.]+)(m|[kMGTP]|[KMGTP]i)?", str(text))
    if not said:
        raise ConfigurationError(f"{text!r} is no quantity of Kubernetes: write 500m, 2, 64Gi or 100G")
    unit = said[2] or ""
    if unit == "m":
        return float(said[1]) / 1000
    power = " KMGTP".index(unit[0].upper()) if unit else 0
    return float(said[1]) * (1024 if unit.endswith("i") else 1000) ** power


def problems(file: ClusterFile, workers: int, images: int) -> list[str]:
    """What would go wrong with this workload on this cluster, or leave a door open. Each says what to do.

    workers: of training, which each want a GPU where there is one. images: of the largest data set.
    """
    found = [*_doors(file), *_costs(file), *_rights(file), *_room(file, images)]
    return found + list(_capacity(file, workers))


def _doors(file: ClusterFile) -> Iterator[str]:
    """Who may run code on the cluster, and read its secrets."""
    text = file.path.read_text()
    if KEY.search(text):
        yield "it holds a secret key: take it out, revoke it, and give the machines a role"
    if file.is_kuberay:
        head = file.cluster["headGroupSpec"]
        if file.cluster.get("authOptions", {"mode": "disabled"}).get("mode", "token") != "token":
            yield "whoever reaches it can run code on it: add authOptions: {mode: token}"
        if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
            yield "its dashboard is open to others: leave headGroupSpec.serviceType at ClusterIP, without an ingress"
        return
    for role in ("head", "worker"):
        starts = [c for c in file.content.get(f"{role}_start_ray_commands", []) if "ray start" in c]
        if (role == "head" or not file.is_here) and not all("RAY_AUTH_MODE=token" in c for c in starts or [""]):
            yield f"whoever reaches it can run code on it: put RAY_AUTH_MODE=token before `ray start` of the {role}"
        host = re.search(r"--dashboard-host[= ](\S+)", " ".join(starts))
        if host and host[1] not in ("127.0.0.1", "localhost"):
            yield f"its dashboard listens on {host[1]}: let it listen on 127.0.0.1, and look at it with `ray dashboard`"
    mounts = file.content.get("file_mounts", {})
    if not file.is_here and "~/.ray/auth_token" not in mounts:
        yield "its machines get no token: add ~/.ray/auth_token: ~/.ray/auth_token to file_mounts"
    for rule in file.content["provider"].get("security_group", {}).get("IpPermissions", []):
        anywhere = any(r.get("CidrIp") == "0.0.0.0/0" for r in rule.get("IpRanges", []))
        if anywhere and (rule.get("FromPort"), rule.get("ToPort")) != (22, 22):
            yield "its security group opens more than port 22 to everybody: name your own network instead of 0.0.0.0/0"


def _costs(file: ClusterFile) -> Iterator[str]:
    """What nobody would notice until the bill comes."""
    if file.is_kuberay:
        options = file.cluster.get("autoscalerOptions", {})
        grows = any(m.most > m.least for m in file.machines)
        if grows and not 0 < options.get("idleTimeoutSeconds", 60) <= 60 * MAX_IDLE_MINUTES:
            yield f"its idle pods stay: set autoscalerOptions.idleTimeoutSeconds to at most {60 * MAX_IDLE_MINUTES}"
        if file.content["kind"] == "RayJob" and not file.content["spec"].get("shutdownAfterJobFinishes"):
            yield "its cluster stays after the job: set shutdownAfterJobFinishes: true"
    elif file.content["provider"]["type"] not in (OWN, FAKE):
        if not 0 < file.content.get("idle_timeout_minutes", 5) <= MAX_IDLE_MINUTES:
            yield f"its idle machines stay: set idle_timeout_minutes to at most {MAX_IDLE_MINUTES}"
        if "orch cluster idle" not in " ".join(file.content.get("initialization_commands", [])):
            yield "its head stays for ever: let initialization_commands switch it off, as in cluster/aws-1gpu.yaml"


def _rights(file: ClusterFile) -> Iterator[str]:
    """How the machines reach the bucket."""
    if file.is_kuberay:
        groups = [file.cluster["headGroupSpec"], *file.cluster.get("workerGroupSpecs", [])]
        for machines, group in zip(file.machines, groups, strict=True):
            if "serviceAccountName" not in group["template"]["spec"]:
                yield f"the pods of {machines.name} have no role for the bucket: give them a serviceAccountName"
        return
    wanted = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}.get(file.content["provider"]["type"])
    for name, node in file.content.get("available_node_types", {}).items():
        if wanted and wanted not in node["node_config"]:
            yield f"the machines of {name} have no role for the bucket: give them {wanted} in node_config"


def _room(file: ClusterFile, images: int) -> Iterator[str]:
    cache_gib = images * CACHED_IMAGE_BYTES / GIB
    for group in file.machines:
        if group.shm_gib is not None and group.shm_gib < SHARED_MEMORY_GIB:
            yield (
                f"a container of {group.name} has {group.shm_gib:.2g} GiB of /dev/shm and {SHARED_MEMORY_GIB:g} are "
                "wanted: " + ("mount an emptyDir of medium Memory there" if file.is_kuberay else "raise --shm-size")
            )
        works = group.cpus != 0 or group.gpus
        disk_gib = BASE_DISK_GIB + (cache_gib if works else 0)
        if group.disk_gib is not None and group.disk_gib < disk_gib:
            cache = f", {cache_gib:.0f} of them for the cache of {images} images" if works else ""
            yield f"a machine of {group.name} has {group.disk_gib:g} GiB of disk and {disk_gib:.0f} are wanted{cache}"
        wanted_gib = MEMORY_PER_WORKER_GIB * max(1, int(group.gpus or 0))
        if works and group.memory_gib is not None and group.memory_gib < wanted_gib:
            yield f"a machine of {group.name} has {group.memory_gib:.0f} GiB of memory and {wanted_gib:.0f} are wanted"


def _capacity(file: ClusterFile, workers: int) -> Iterator[str]:
    """Whether so many training workers can ever be placed."""
    unsaid = [m.name for m in file.machines if m.cpus is None]
    if unsaid:
        yield f"it does not say what {' and '.join(unsaid)} has: {_how_to_say(file)}"
        return
    from compgan_core.errors import CapacityError
    from orchestrator.runtime.cluster import Workers, place

    nodes = [{"CPU": float(m.cpus or 0), "GPU": float(m.gpus or 0)} for m in file.machines for _ in range(m.most)]
    try:
        place(Workers(num_workers=workers), nodes)
    except CapacityError as error:
        yield f"{workers} workers do not fit: {error}"


def _how_to_say(file: ClusterFile) -> str:
    if file.is_kuberay:
        return "give the container resources"
    if file.content["provider"]["type"] == OWN:
        return "add metadata: {machine: {CPU: 16, GPU: 1, memory_gib: 64, disk_gib: 500}}"
    return "add resources: {CPU: 8, GPU: 1}"
