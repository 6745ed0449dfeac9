"""A store that refuses, stalls or breaks off, between us and a real S3 server."""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_study as small
import torch
from fault_proxy import BAD_DAY, Fault, FaultProxy
from random_kills import SHORT, records_of
from toy_faces import DRAWN

from compgan_core.errors import StorageError
from compgan_core.training.runtime import save_state
from jobs.train_alone import main as train_alone
from orchestrator.artifacts import s3 as s3_module
from orchestrator.artifacts.artifacts import Artifacts, sha256_of
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.datasets import add_dataset, find_dataset, verify_dataset
from orchestrator.ingest import Streamed, faces_recipe, make_faces
from orchestrator.runtime.alone import AloneRuntime
from orchestrator.store_server import StoreServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
TINY = ["--data", "drawn", "--task", "ER-FE", "--shots", "1", "--preset", "tiny", "--set", "faces.max_expressions=5"]


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


@pytest.mark.parametrize("settings", [SHORT, pytest.param({}, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_a_whole_study_on_a_bad_day(
    s3: StoreServer, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """Every kind of fault meets one request in twenty; every file of every stage arrives, and is what was recorded."""
    small.import_faces(s3_url, tmp_path / "cache")
    rng, met = random.Random(0), Counter[str]()

    def bad_day(method: str, path: str) -> Fault:
        draw = rng.random() * 20
        kind = BAD_DAY[int(draw)] if draw < len(BAD_DAY) else ""
        met[kind] += 1
        return kind

    monkeypatch.setitem(s3_module.CONFIG, "read_timeout", 2)  # less than the proxy holds an answer back
    monkeypatch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))
    options = small.options(s3_url, **settings) if settings else [*TINY, "--store", s3_url]
    with FaultProxy(s3.endpoint, bad_day) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        seconds = "0.1" if settings else "5"
        assert train_alone([*options, "--device", "cpu", "--checkpoint-every", seconds]) == 0
    assert all(met[kind] for kind in BAD_DAY), met
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    store = open_store(s3_url)
    entries = [entry for record in records_of(store) for entry in record.files.values()]
    assert len(entries) > 10
    for entry in entries:
        store.get_file(entry.key, tmp_path / "file")
        assert sha256_of(tmp_path / "file") == entry.sha256
    print(f"{sum(met.values())} requests: {dict(met)}")


def test_a_checkpoint_that_finds_no_room_ends_in_a_sentence(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    runtime = AloneRuntime(open_store(tmp_path / "store"), lambda event: None, device="cpu")
    runtime.begin("toy", "f00d")
    state = {"weights": torch.zeros(1 << 20)}
    with pytest.raises(StorageError, match="cannot write a checkpoint to .*disk.*[Nn]o space left.*TMPDIR"):
        runtime.save_checkpoint(5, lambda directory: save_state(directory / "state.safetensors", state))
    assert not [*small_disk.iterdir()] and not [*runtime.store.keys()]


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
