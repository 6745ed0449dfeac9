"""Comp-GAN training is killed, worker and driver, in the middle; the same command ends with the same weights."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest
import small_study as small

from orchestrator.artifacts.store import Store, open_store

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(500)]
PLAIN = {"variants": '["plain"]'}  # Comp-GAN is trained all the same, for its pictures


@pytest.fixture
def url(s3, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))
    url = "s3://test-kill/disturbed"
    for store in (url, "s3://test-kill/undisturbed"):
        open_store(store).check(create=True)
        small.import_faces(store, tmp_path / "cache")
    return url


def start(url: str) -> subprocess.Popen[str]:
    command = [small.ORCH, "train", *small.options(url, **PLAIN), "--checkpoint-every", "0.5", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checkpoint_after(store: Store, step: int, run: subprocess.Popen[str]) -> int:
    """Wait for an acknowledged Comp-GAN checkpoint later than a step; returns its step."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        steps = [int(Path(key).stem) for key in store.keys("checkpoints/compgan/")]
        if steps and max(steps) > step:
            return max(steps)
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint after step {step}")


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(run.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]


def test_killed_twice_it_ends_with_the_weights_of_the_run_never_killed(url: str) -> None:
    store = open_store(url)
    run = start(url)
    first = checkpoint_after(store, 0, run)
    (worker,) = workers_of(run)
    worker.kill()
    second = checkpoint_after(store, first, run)  # the same driver has restarted the worker
    run.kill()
    run.communicate()
    assert second < small.COMPGAN_STEPS
    again = start(url)
    out, err = again.communicate(timeout=300)
    done = small.facts(subprocess.CompletedProcess((), again.returncode, out, err))
    assert "continuing from the checkpoint at step" in err
    state = {stage["name"]: stage["state"] for stage in done["stages"]}
    assert (state["classifier"], state["compgan"]) == ("cached", "run")
    fingerprint = next(s["fingerprint"] for s in done["stages"] if s["name"] == "compgan")

    whole = small.facts(small.orch("train", *small.options("s3://test-kill/undisturbed", **PLAIN), "--json"))
    assert whole["metrics"] == done["metrics"]
    expected = small.hashes("s3://test-kill/undisturbed", fingerprint)
    found = small.hashes(url, fingerprint)
    assert set(found) == {"pose.safetensors", "exp.safetensors", "discriminator.safetensors", "history.json"}
    assert found == expected  # every bit
