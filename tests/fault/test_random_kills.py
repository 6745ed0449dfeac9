"""Any process of a job dies at any moment, again and again; it ends with the bits of the run that was never killed.

The draws are seeded: `COMPGAN_KILL_SEED=7 pytest tests/fault/test_random_kills.py` draws others.
"""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from pathlib import Path

import pytest
import small_study as small
from random_kills import Alone, ThroughRay, files_of, killed_until_done

from orchestrator.artifacts.store import open_store

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
SEED = int(os.environ.get("COMPGAN_KILL_SEED", "0"))
soak = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("kills", [10, pytest.param(150, marks=soak)])
def test_one_process(drawn: Path, tmp_path: Path, kills: int) -> None:
    def job(name: str) -> tuple[Path, Alone]:
        store = shutil.copytree(drawn / "store", tmp_path / name)
        return store, Alone(store, tmp_path / f"{name}-cache", tmp_path / f"{name}.log")

    started = time.monotonic()
    store, undisturbed = job("undisturbed")
    killed_until_done(undisturbed, open_store(store), random.Random(), 0, 0, print)
    expected, took = files_of(open_store(store)), time.monotonic() - started
    rng, done, rounds = random.Random(SEED), 0, 0
    while done < kills:
        rounds += 1
        store, killed = job(f"round{rounds}")
        done += killed_until_done(killed, open_store(store), rng, kills - done, took / 2, print)
        assert files_of(open_store(store)) == expected
        shutil.rmtree(store)
    print(f"{done} kills in {rounds} runs of {took:.1f} s each")


@pytest.mark.parametrize("kills", [pytest.param(50, marks=soak)])
def test_through_ray(trained: dict, bucket: str, s3: object, tmp_path: Path, kills: int) -> None:
    expected, rng, done, rounds = files_of(open_store(bucket)), random.Random(SEED), 0, 0
    while done < kills:
        rounds += 1
        url = f"s3://test-{uuid.uuid4().hex[:12]}/killed"
        store = open_store(url)
        store.check(create=True)
        small.import_faces(url, tmp_path / f"cache{rounds}")
        job = ThroughRay(url, tmp_path / f"round{rounds}.log")
        done += killed_until_done(job, store, rng, kills - done, 30, print)
        assert files_of(store).items() <= expected.items()
    print(f"{done} kills through Ray in {rounds} runs")
