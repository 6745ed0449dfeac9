"""A store that refuses, stalls or breaks off, between us and a real S3 server."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_study as small
from fault_proxy import Fault, FaultProxy
from toy_faces import DRAWN

from compgan_core.errors import StorageError
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.datasets import add_dataset, find_dataset, verify_dataset
from orchestrator.ingest import Streamed, faces_recipe, make_faces
from orchestrator.store_server import StoreServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def read_only(method: str, path: str) -> Fault:
    return "denied" if method in ("PUT", "POST", "DELETE") else ""


def artifacts(url: str, tmp_path: Path) -> Artifacts:
    return Artifacts(open_store(url), NodeCache(tmp_path / "cache"))


def test_a_bucket_that_cannot_be_written_is_refused_before_any_work(
    s3: StoreServer, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.import_faces(s3_url, tmp_path / "cache")
    before = [*open_store(s3_url).keys()]
    with FaultProxy(s3.endpoint, read_only) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        plan = small.orch("plan", *small.options(s3_url), "--json")
        assert plan.returncode == 0, plan.stderr  # reading is enough to plan
        for command in (
            ("train", *small.options(s3_url)),
            ("data", "import", "procedural", "--name", "x", "--store", s3_url),
        ):
            done = small.orch(*command)
            assert done.returncode == 3 and "Traceback" not in done.stderr
            (line,) = [text for text in done.stderr.splitlines() if text.startswith("orch: ")]
            assert "the keys do not allow it" in line and "ask for read and write access" in line
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert [*open_store(s3_url).keys()] == before


@pytest.mark.parametrize("kind", ["slow down", "cut"])
def test_answers_that_fail_now_and_then_are_asked_for_again(
    s3: StoreServer, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Fault
) -> None:
    """One request in five fails; an ingest, its tensor cache and a verification come out as if none had."""
    rng = random.Random(0)

    def now_and_then(method: str, path: str) -> Fault:
        return kind if rng.random() < 0.2 and (kind == "slow down" or method == "GET") else ""

    with FaultProxy(s3.endpoint, now_and_then) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        there = artifacts(s3_url, tmp_path)
        dataset = add_dataset(there, Streamed(DRAWN, 12), "drawn", source_format="procedural")
        there.fetch(make_faces(there, dataset.fingerprint, faces_recipe(8, ())))
        assert verify_dataset(there, find_dataset(there.store, "drawn")) == []
        assert len(proxy.requests) > 30


def test_a_store_that_stays_away_ends_in_a_sentence(
    s3: StoreServer, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3.endpoint, lambda method, path: "slow down") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StorageError, match="503 SlowDown"):
            open_store(s3_url).check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: it takes root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_in_a_sentence_and_leaves_no_dataset(small_disk: Path, tmp_path: Path) -> None:
    there = artifacts(str(small_disk / "store"), tmp_path)
    with pytest.raises(StorageError, match="No space left on device"):
        add_dataset(there, Streamed(DRAWN, 12), "drawn", source_format="procedural")
    assert not [*there.store.keys("datasets/")]
