"""Fixtures for all tests."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

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
