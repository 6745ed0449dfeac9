"""A Ray cluster of one machine, started by hand as the last line of cluster/local.yaml says, on ports of its own."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import small_study as small
import yaml

from compgan_core.errors import CapacityError
from orchestrator.runtime.submit import JobServer

ROOT = Path(__file__).parents[1]


@contextmanager
def cluster() -> Iterator[str]:
    """The address of its dashboard. What runs on it finds no checkout by itself, only the environment's packages."""
    directory = tempfile.mkdtemp(prefix="r", dir="/tmp")
    environment = os.environ | {"PATH": f"{small.ORCH.parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "60"  # a busy machine takes its time
    start = yaml.safe_load((ROOT / "cluster/local.yaml").read_text())["head_start_ray_commands"][-1]
    ports = dict(zip(("6379", "8265", "52375"), free_ports(3), strict=True))
    assert set(re.findall("|".join(ports), start)) == set(ports)
    start = (
        re.sub("|".join(ports), lambda port: str(ports[port[0]]), start)
        + f" --num-cpus=2 --temp-dir={directory} --block"
    )
    head = subprocess.Popen(
        ["bash", "-c", start], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{ports['8265']}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                JobServer(address)
                break
            except CapacityError:
                assert head.poll() is None and time.monotonic() < deadline, "Ray's head node does not come up"
                time.sleep(0.5)
        yield address
    finally:
        for process in (*psutil.Process(head.pid).children(recursive=True), head):
            process.kill()  # asked to end, it would wait half a minute for the processes of jobs that are over
        head.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Below those that the system hands out by itself, and so to the other servers of a Ray that starts."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return [*found]
