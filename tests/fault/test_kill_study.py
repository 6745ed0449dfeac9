"""Comp-GAN training is killed, worker and driver, in the middle; the same command ends with the same weights."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest
import small_study as small

from orchestrator.artifacts.store import Store, open_store

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]
PLAIN = {"variants": '["plain"]'}  # Comp-GAN is trained all the same, for its pictures


def checkpoint_after(store: Store, step: int, run: subprocess.Popen[str]) -> int:
    """Wait for an acknowledged Comp-GAN checkpoint later than a step; returns its step."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        steps = [int(Path(key).stem) for key in store.keys("checkpoints/compgan/")]
        if steps and max(steps) > step:
            return max(steps)
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint after step {step}")


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(run.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]


def test_killed_twice_it_ends_with_the_weights_of_the_run_never_killed(
    trained: dict, bucket: str, s3_url: str, tmp_path: Path
) -> None:
    """First the worker, then the driver and with it the Ray that it had started; another Ray goes on."""
    store = open_store(s3_url)
    small.import_faces(s3_url, tmp_path)
    command = ["train", *small.options(s3_url, **small.LONG, **PLAIN), "--checkpoint-every", "0.1", "--json"]
    run = subprocess.Popen([small.ORCH, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = checkpoint_after(store, 0, run)
    watcher = subprocess.Popen([small.ORCH, "watch", "--store", s3_url], stdout=subprocess.DEVNULL)
    (worker,) = workers_of(run)
    worker.kill()
    second = checkpoint_after(store, first, run)  # the same driver has restarted the worker
    assert watcher.poll() is None
    watcher.kill()
    watcher.wait()
    run.kill()
    run.communicate()
    assert second < small.COMPGAN_STEPS
    again = small.orch(*command)
    done = small.facts(again)
    assert "continuing from the checkpoint at step" in again.stderr
    state = {stage["name"]: stage["state"] for stage in done["stages"]}
    assert (state["classifier"], state["compgan"]) == ("cached", "run")
    fingerprint = next(s["fingerprint"] for s in done["stages"] if s["name"] == "compgan")

    assert done["metrics"].items() <= trained["metrics"].items()
    expected, found = small.hashes(bucket, fingerprint), small.hashes(s3_url, fingerprint)
    assert set(found) == {"pose.safetensors", "exp.safetensors", "discriminator.safetensors", "history.json"}
    assert found == expected  # every bit
