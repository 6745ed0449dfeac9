"""Fixtures for all tests."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import by_hand as cluster_by_hand
import pytest
import small_study as small
import small_sweep
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from orchestrator.artifacts.store import Store, open_store
from orchestrator.store_server import StoreServer

# Before NumPy and torch load: many workers on few cores lose time to threads that wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("COMPGAN_DASHBOARD", "0")  # ten processes, which nobody looks at
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for every Ray of these tests, and not into the home directory
os.environ["RAY_AUTH_MODE"] = "token"


settings.register_profile("any machine", deadline=None)  # a busy one takes seconds for what takes milliseconds
settings.load_profile("any machine")


BESIDE = {
    "tests/fault/test_kill_sweep.py": "tests/integration/test_sweep.py",
    "tests/fault/test_kill_study.py": "tests/integration/test_train.py",
}


class SharingScheduler(LoadScopeScheduling):
    """Side by side, the tests of a file run in one process, and with them those that need what it took long to make."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return BESIDE.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SharingScheduler:
    return SharingScheduler(config, log)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A real S3 server, the same for all tests. From its first use on, the AWS_* variables lead to it."""
    with pytest.MonkeyPatch.context() as patch, StoreServer(tmp_path_factory.mktemp("s3")) as server:
        for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
            patch.delenv(name)
        here = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}  # not the developer's own
        for name, value in (server.environment() | here | {"AWS_EC2_METADATA_DISABLED": "true"}).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def ray_cluster(s3: StoreServer) -> Iterator[None]:
    """One Ray of this session's own, with two CPUs; its workers inherit the way to the S3 server.

    Its directory is short: Unix sockets in it allow 107 bytes.
    """
    import ray  # takes seconds, and the fast tests need none

    from orchestrator.runtime.cluster import start_ray

    directory = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # for the tests that look at metrics
        patch.setenv("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")  # an actor more for each run, which only a dashboard reads
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for what workers unpickle
        patch.delenv("RAY_ADDRESS", raising=False)
        start_ray(num_cpus=2, dashboard=False, temp_dir=directory)
        yield
        ray.shutdown()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def bucket(s3: StoreServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket with drawn faces, the same for all tests, and the session's node cache."""
    url, cache = "s3://test-train/prefix", tmp_path_factory.mktemp("cache")
    open_store(url).check(create=True)
    small.import_faces(url, cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPGAN_CACHE", str(cache))
        yield url


@pytest.fixture(scope="session")
def by_hand(bucket: str) -> Iterator[str]:
    """The dashboard of a cluster that nobody's command started, the same for all tests; it reaches the S3 server."""
    with cluster_by_hand.cluster() as head:
        yield head.dashboard


@pytest.fixture(scope="session")
def trained(ray_cluster: None, bucket: str) -> dict:
    """What `orch train --json` said of a whole study in that bucket, which nothing disturbed."""
    return small.facts(small.orch("train", *small.options(bucket, **small.LONG), "--json"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a `store` of drawn faces, to be copied, and a node `cache`."""
    home = tmp_path_factory.mktemp("drawn")
    small.import_faces(str(home / "store"), home / "cache")
    return home


@pytest.fixture(scope="session")
def undisturbed_weights(ray_cluster: None, drawn: Path) -> dict:
    """What a sweep said that nothing disturbed, in whose trials Comp-GANs are trained; `results`, and its `store`."""
    store, over = drawn / "weights", "mu.con=10,40"
    shutil.copytree(drawn / "store", store)
    with small_sweep.cache(drawn / "cache"):
        small_sweep.prepare(store, drawn / "cache", over)
        shutil.copytree(store, drawn / "prepared")
        facts = small.facts(small.orch(*small_sweep.command(store, drawn / "report", over)))
    return facts | {"results": small_sweep.results(store, facts["sweep"])}


@pytest.fixture
def prepared(undisturbed_weights: dict, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of one's own where what the trials of that sweep share is done, and nothing else."""
    monkeypatch.setenv("COMPGAN_CACHE", str(drawn / "cache"))
    return shutil.copytree(drawn / "prepared", tmp_path / "store")


@pytest.fixture(scope="session")
def counts_store(s3: StoreServer, drawn: Path) -> str:
    """A bucket with drawn faces, for the sweep over counts."""
    url = "s3://test-counts/prefix"
    open_store(url).check(create=True)
    small.import_faces(url, drawn / "cache")
    return url


@pytest.fixture(scope="session")
def undisturbed_counts(ray_cluster: None, counts_store: str, drawn: Path) -> dict:
    """What a sweep over counts said that nothing disturbed, and its `results`."""
    with small_sweep.cache(drawn / "cache"):
        facts = small.facts(small.orch(*small_sweep.command(counts_store, drawn / "report")))
    return facts | {"results": small_sweep.results(counts_store, facts["sweep"])}


@pytest.fixture
def s3_url(s3: StoreServer) -> str:
    """A new bucket with a prefix."""
    url = f"s3://test-{uuid.uuid4().hex[:12]}/some/prefix"
    open_store(url).check(create=True)
    return url


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of either kind."""
    return open_store(request.getfixturevalue("s3_url") if request.param == "s3" else tmp_path / "store")
