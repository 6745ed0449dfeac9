"""Ray clusters on this machine, started by hand as the last line of a file of cluster/ says, on ports of their own."""

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
from typing import NamedTuple

import psutil
import small_study as small
import yaml

from compgan_core.errors import CapacityError
from orchestrator.runtime.submit import JobServer

ROOT = Path(__file__).parents[1]
FAKE = "type: fake_multinode"


class Head(NamedTuple):
    """Where it is: for jobs, and for drivers on this machine."""

    dashboard: str
    gcs: str


@contextmanager
def cluster(name: str = "local", options: str = "--num-cpus=2") -> Iterator[Head]:
    """The head of cluster/NAME.yaml, whose start command gets more options.

    What runs on it finds no checkout by itself, only the environment's packages.
    """
    directory = tempfile.mkdtemp(prefix="r", dir="/tmp")
    environment = os.environ | {"PATH": f"{small.ORCH.parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "60"  # a busy machine takes its time
    file = ROOT / f"cluster/{name}.yaml"
    start = yaml.safe_load(file.read_text())["head_start_ray_commands"][-1]
    ports = dict(zip(("6379", "8265", "52375"), free_ports(3), strict=True))
    assert set(re.findall("|".join(ports), start)) == set(ports)
    start = re.sub("|".join(ports), lambda port: str(ports[port[0]]), start)
    mine = Path(directory) / file.name  # pretended nodes look for the head where the file says
    address = Head(f"http://127.0.0.1:{ports['8265']}", f"{node_address()}:{ports['6379']}")
    mine.write_text(file.read_text().replace(FAKE, f"{FAKE}\n  gcs_address: {address.gcs}"))
    start = f"{start.replace(f'cluster/{file.name}', str(mine))} {options} --temp-dir={directory} --block"
    head = subprocess.Popen(
        ["bash", "-c", start], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                JobServer(address.dashboard)
                break
            except CapacityError:
                assert head.poll() is None and time.monotonic() < deadline, "Ray's head node does not come up"
                time.sleep(0.5)
        yield address
    finally:
        # Asked to end, it would wait half a minute for the processes of jobs that are over.
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(head.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        head.kill()
        head.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def submit(address: str, *entry: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` with this checkout."""
    environment = os.environ | {"PATH": f"{small.ORCH.parent}:{os.environ['PATH']}"} | environment
    command = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *entry]
    for _ in range(30):  # the agent that starts jobs comes up some time after Ray's dashboard
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        if "No available agent" not in done.stderr:
            break
        time.sleep(1)
    return done


def node_address() -> str:
    """Which of this machine's addresses Ray takes."""
    from ray._private.services import get_node_ip_address  # takes seconds, and the fast tests need none

    return get_node_ip_address()


def free_ports(count: int) -> list[int]:
    """Below those that the system hands out by itself, and so to the other servers of a Ray that starts."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return [*found]
