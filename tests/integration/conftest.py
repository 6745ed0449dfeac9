from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from orchestrator.runtime.cluster import start_ray
from orchestrator.store_server import StoreServer


@pytest.fixture(scope="session")
def ray_cluster(s3: StoreServer) -> Iterator[None]:
    """One Ray of this session's own, with two CPUs; its workers inherit the way to the S3 server.

    Its directory is short: Unix sockets in it allow 107 bytes.
    """
    directory = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # for what workers unpickle
        patch.delenv("RAY_ADDRESS", raising=False)
        start_ray(num_cpus=2, dashboard=False, temp_dir=directory)
        yield
        ray.shutdown()
    shutil.rmtree(directory)
