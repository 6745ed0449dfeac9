"""`orch doctor`: is this machine ready? A check returns a fact, or raises what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from compgan_core.errors import CapacityError, CompganError, ConfigurationError
from orchestrator.cli.options import DEFAULT_STORE, Json, Store
from orchestrator.cli.output import Printer

GIB = 1 << 30
FREE_DISK_GIB = 5
FREE_SHARED_MEMORY_GIB = 1
ENGINE_TOLERANCE = 1e-6
RAY_DISK_LIMIT = 0.95  # above this share of the disk in use, Ray fails what it would spill
CHECKSUM_VARIABLES = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")


def doctor(
    store: Store = DEFAULT_STORE,
    engine: Annotated[
        bool, typer.Option("--engine", help="Also compare DeepSpeed's updates with plain torch; takes a minute.")
    ] = False,
    json: Json = False,
) -> None:
    """Check this machine and the store.

    Each line is ok, or says what to do; the exit code is that of the first failure.
    """
    printer = Printer(json)
    findings, failures = [], []
    for name, check in _checks(store, engine):
        try:
            finding, ok = check(), True
        except CompganError as error:
            finding, ok = str(error), False
            failures.append(error)
        findings.append({"check": name, "ok": ok, "finding": finding})
        printer.note(f"{'ok' if ok else 'TO DO':5}  {name:13}  {finding}")
    printer.facts({"ok": not failures, "checks": findings})
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _checks(store: str, engine: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "Python", platform.python_version
    yield "torch", partial(_package, "torch")
    yield "DeepSpeed", partial(_package, "deepspeed")
    yield "Ray", _ray
    yield "GPU", _gpu
    if engine:
        for zero_stage in (0, 1, 2):
            yield f"engine ZeRO-{zero_stage}", partial(_engine, zero_stage)
    yield "disk", _disk
    yield "shared memory", _shared_memory
    yield "checksums", _checksums
    yield "store", partial(_store, store)


def _package(name: str) -> str:
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement

    wanted = next(r for r in map(Requirement, requires("compgan-orchestrator") or []) if r.name == name)
    if not wanted.specifier.contains(version(name), prereleases=True):
        raise ConfigurationError(
            f"{name} {version(name)} is installed and {wanted.specifier} is needed: pip install -c constraints.txt -e ."
        )
    return version(name)


def _ray() -> str:
    release = _package("ray")
    if Path("~/.ray/auth_token").expanduser().exists() and os.environ.get("RAY_AUTH_MODE") != "token":
        return (
            f"{release} (a token lies here: `ray job submit` needs RAY_AUTH_MODE=token where the cluster asks for it)"
        )
    return release


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{device.name} with {device.total_memory / GIB:.0f} GiB" for device in devices)
    if shutil.which("nvidia-smi"):
        raise ConfigurationError(
            f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU: "
            "install the build of torch for the CUDA version that nvidia-smi shows"
        )
    return "none, training runs on the CPU"


def _engine(zero_stage: int) -> str:
    from orchestrator.runtime.selftest import check_engine

    difference = check_engine(zero_stage)
    if difference > ENGINE_TOLERANCE:
        raise CompganError(
            f"DeepSpeed's updates differ from plain torch by {difference:.1e}, and {ENGINE_TOLERANCE:.0e} is allowed: "
            f"do not train with --zero {zero_stage}, and install the versions of constraints.txt"
        )
    return f"updates as plain torch does, within {difference:.1e}"


def _disk() -> str:
    where = tempfile.gettempdir()
    total, used, free = shutil.disk_usage(where)
    if free < FREE_DISK_GIB * GIB or used > RAY_DISK_LIMIT * total:
        raise CapacityError(
            f"{where} has {free / GIB:.1f} GiB free of {total / GIB:.0f}: make room for {FREE_DISK_GIB} GiB and for "
            f"Ray, which stops at {RAY_DISK_LIMIT:.0%} in use, or point TMPDIR at another disk"
        )
    return f"{free / GIB:.0f} GiB free in {where}"


def _shared_memory() -> str:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return "no /dev/shm on this system; Ray uses its temporary directory"
    free = shutil.disk_usage(shared).free
    if free < FREE_SHARED_MEMORY_GIB * GIB:
        raise CapacityError(
            f"/dev/shm has {free / GIB:.2f} GiB free and Ray's object store wants {FREE_SHARED_MEMORY_GIB}: "
            "start the container with --shm-size=4g"
        )
    return f"{free / GIB:.0f} GiB free in /dev/shm"


def _checksums() -> str:
    found = {name: os.environ.get(name, "").lower() for name in CHECKSUM_VARIABLES}
    if len(set(found.values())) > 1 or not set(found.values()) <= {"", "when_required", "when_supported"}:
        raise ConfigurationError(
            f"{' and '.join(CHECKSUM_VARIABLES)} must agree, both when_required or both unset: they are "
            f"{' and '.join(repr(value) for value in found.values())}"
        )
    if "when_required" in found.values():
        return "only where the store requires them, as older Ceph needs"
    return f"on; a store that answers 411 to uploads needs {' and '.join(CHECKSUM_VARIABLES)}=when_required"


def _store(url: str) -> str:
    from orchestrator.artifacts.store import open_store

    store = open_store(url)
    store.check()
    return f"{store.url} is readable and writable"
