"""The main job on several hosts, DeepSpeed over their network and the store on a host of its own, and what may happen.

However a run was disturbed, it ends with the metrics and the weights of the one that was not, to the bit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import small_study as small

from orchestrator.artifacts.store import open_store
from orchestrator.store_server import Credentials

NOT_HERE = hosts.why_not()
pytestmark = [
    pytest.mark.soak,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(NOT_HERE), reason=NOT_HERE),
]
SETTINGS = {"variants": '["plain"]', "compgan.schedule.steps": "60"}  # long enough to be disturbed in
RAY = small.ORCH.with_name("ray")
# A lost host is noticed after some ten seconds, not half a minute; sooner, and a busy machine loses hosts by itself.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3",
}


class Cluster:
    """A head, its workers with one CPU each, and the store, on hosts of one network."""

    def __init__(self, network: hosts.Network, directory: Path):
        self.network, self.directory = network, directory
        self.store_host, self.head = network.add(), network.add()
        self.workers: list[hosts.Host] = []
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        data = directory / "s3"
        data.mkdir()
        serve = [sys.executable, "-m", "orchestrator.store_server", "--data", data, "--port", "9000"]
        self.store_host.start(*serve, env=self._environment, log=directory / "store.log")
        self._wait(lambda: (data / "credentials.json").exists())
        credentials = Credentials.read(data)
        self.relay = hosts.relayed(self.store_host, 9000, directory / "relay.log")
        where = {"AWS_ENDPOINT_URL": f"http://{self.relay.__enter__()}", "AWS_CONFIG_FILE": os.devnull}
        self._environment |= credentials.environment() | where | IMPATIENT
        self._environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        self._environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "eth0"}
        self._environment.pop("RAY_ADDRESS", None)

    def environment(self, host: hosts.Host) -> dict[str, str]:
        return self._environment | {"COMPGAN_CACHE": str(self.directory / f"cache{host.number}")}

    def start_head(self) -> None:
        self._ray(self.head, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")

    def start_worker(self) -> hosts.Host:
        self.workers.append(self.network.add())
        self.restart(self.workers[-1])
        return self.workers[-1]

    def restart(self, worker: hosts.Host) -> None:
        self._ray(worker, f"--address={self.head.address}:6379", "--num-cpus=1")

    def _ray(self, host: hosts.Host, *options: str) -> None:
        """Start a host's Ray, once more if it does not start, as what supervises a host would."""
        own = [f"--node-ip-address={host.address}", f"--temp-dir={self.directory}/{host.number}", "--block"]
        command = [RAY, "start", *options, *own, "--object-store-memory=100000000", "--disable-usage-stats"]
        said = ""
        for _ in range(2):
            ray = host.start(*command, env=self.environment(host), log=self.directory / f"ray{host.number}.log")
            assert ray.stdout
            for line in ray.stdout:  # up to its end, if it does not start
                said += line
                if "Ray runtime started" in line:
                    return
            host.kill()
        raise AssertionError(said)

    @staticmethod
    def _wait(ready) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def stop(self) -> None:
        self.relay.__exit__(None, None, None)

    @property
    def url(self) -> str:
        return "s3://hosts/undisturbed"

    def prepare(self, url: str) -> None:
        """A store with the drawn faces."""
        self.on_network(
            lambda: (open_store(url).check(create=True), small.import_faces(url, self.directory / "import"))
        )

    def on_network(self, work):
        """Do something here as the head would do it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                if name.startswith("AWS_"):
                    patch.setenv(name, value)
            return self.head.call(work)

    def train(self, url: str) -> subprocess.Popen[str]:
        """The main job, its driver on the head."""
        options = [*small.options(url, **SETTINGS), "--address", f"{self.head.address}:6379", "--workers", "2"]
        command = [small.ORCH, "train", *options, "--zero", "2", "--checkpoint-every", "0.5", "--json"]
        return self.head.start(*command, env=self.environment(self.head), log=self.directory / f"{Path(url).name}.log")

    def finished(self, url: str, run: subprocess.Popen[str]) -> dict:
        out, _ = run.communicate(timeout=900)
        err = (self.directory / f"{Path(url).name}.log").read_text()
        return small.facts(subprocess.CompletedProcess((), run.returncode, out, err)) | {"said": err}

    def checkpoint(self, url: str, after: int, run: subprocess.Popen[str]) -> int:
        """Wait for an acknowledged Comp-GAN checkpoint later than a step; its step."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            keys = self.on_network(lambda: [*open_store(url).keys("checkpoints/compgan/")])
            steps = [int(Path(key).stem) for key in keys if key.endswith(".json")]
            if steps and max(steps) > after:
                return max(steps)
            assert run.poll() is None, (self.directory / f"{Path(url).name}.log").read_text()[-3000:]
            time.sleep(0.2)
        raise AssertionError(f"no checkpoint after step {after}")

    def weights(self, url: str, done: dict) -> dict[str, str]:
        fingerprint = next(s["fingerprint"] for s in done["stages"] if s["name"] == "compgan")
        return self.on_network(lambda: small.hashes(url, fingerprint))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))  # short, for the Unix sockets in it
    with hosts.Network() as network:
        cluster = Cluster(network, directory)
        cluster.start_head()
        cluster.start_worker()
        cluster.start_worker()
        yield cluster
        cluster.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> tuple[dict, dict]:
    """The metrics, and the hashes of Comp-GAN's weights."""
    cluster.prepare(cluster.url)
    done = cluster.finished(cluster.url, cluster.train(cluster.url))
    return done["metrics"], cluster.weights(cluster.url, done)


def test_a_worker_host_is_killed_and_another_takes_its_place(cluster: Cluster, undisturbed: tuple[dict, dict]) -> None:
    url = "s3://hosts/killed"
    cluster.prepare(url)
    run = cluster.train(url)
    step = cluster.checkpoint(url, 0, run)
    cluster.workers.pop(0).kill()
    cluster.start_worker()
    done = cluster.finished(url, run)
    resumed = resumed_at(done["said"])
    assert resumed and min(resumed) >= step
    assert (done["metrics"], cluster.weights(url, done)) == undisturbed


def resumed_at(said: str) -> list[int]:
    """At which steps a run went on from a checkpoint."""
    return [int(step) for step in re.findall(r"continuing from the checkpoint at step (\d+)", said)]


def test_a_worker_host_is_cut_off(cluster: Cluster, undisturbed: tuple[dict, dict]) -> None:
    url = "s3://hosts/cut"
    cluster.prepare(url)
    cluster.start_worker()  # there is room for one more
    run = cluster.train(url)
    step = cluster.checkpoint(url, 0, run)
    lost = cluster.workers.pop(0)
    cluster.network.plug(lost, connected=False)
    done = cluster.finished(url, run)
    lost.kill()
    assert min(resumed_at(done["said"])) >= step
    assert (done["metrics"], cluster.weights(url, done)) == undisturbed


def test_the_store_is_cut_off_for_a_minute(cluster: Cluster, undisturbed: tuple[dict, dict]) -> None:
    url = "s3://hosts/outage"
    cluster.prepare(url)
    run = cluster.train(url)
    cluster.checkpoint(url, 0, run)
    cluster.network.plug(cluster.store_host, connected=False)
    time.sleep(60)
    assert run.poll() is None
    cluster.network.plug(cluster.store_host, connected=True)
    done = cluster.finished(url, run)
    assert (done["metrics"], cluster.weights(url, done)) == undisturbed


def test_the_head_is_killed_and_started_again_and_the_same_command_resumes(
    cluster: Cluster, undisturbed: tuple[dict, dict]
) -> None:
    url = "s3://hosts/head"
    cluster.prepare(url)
    run = cluster.train(url)
    step = cluster.checkpoint(url, 0, run)
    cluster.head.kill()
    run.communicate()
    for worker in cluster.workers:  # what supervises them starts them again; here nobody does
        worker.kill()
    cluster.start_head()
    for worker in cluster.workers:
        cluster.restart(worker)
    done = cluster.finished(url, cluster.train(url))
    assert min(resumed_at(done["said"])) >= step
    assert (done["metrics"], cluster.weights(url, done)) == undisturbed
