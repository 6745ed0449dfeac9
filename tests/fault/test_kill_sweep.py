"""A trial, the holder of a shared stage, and the driver of a sweep are killed; it ends as if nothing had been."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import ray
import small_study as small
import small_sweep
from small_sweep import Killer, records, results, turns

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.runtime.cluster import Workers
from orchestrator.runtime.ray_tune import Trials
from orchestrator.sweeps.sweep import make_sweep, run_shared

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]
OVER = "mu.con=10,40"


def test_a_trial_that_is_killed_goes_on_from_its_checkpoint(
    prepared: Path, undisturbed_weights: dict, tmp_path: Path
) -> None:
    with Killer(prepared) as killer:
        done = small.orch(*small_sweep.command(prepared, tmp_path, OVER))
    facts = small.facts(done)
    assert killer.killed in turns(prepared, killer.fingerprint) and len(turns(prepared, killer.fingerprint)) == 2
    assert "restarted" in done.stderr
    assert small_sweep.continued_at(done.stderr) >= killer.step > 0
    assert killer.recorded.items() <= records(prepared).items()
    assert results(prepared, facts["sweep"]) == undisturbed_weights["results"]


def test_the_same_command_completes_a_sweep_whose_driver_was_killed(
    prepared: Path, undisturbed_weights: dict, tmp_path: Path
) -> None:
    command = small_sweep.command(prepared, tmp_path, OVER)
    here = ["--address", ray.get_runtime_context().gcs_address]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([small.ORCH, *command, *here], **quiet)
    with Killer(prepared, lambda owner: child.pid) as killer:
        child.wait(timeout=200)
    assert killer.killed == child.pid
    done = small.orch(*command)
    assert small_sweep.continued_at(done.stderr) >= killer.step > 0
    assert killer.recorded.items() <= records(prepared).items()
    assert results(prepared, small.facts(done)["sweep"]) == undisturbed_weights["results"]


@pytest.mark.soak  # integration/test_lease.py tests in seconds who takes over from whom
def test_another_takes_over_a_shared_stage_from_its_checkpoint(
    undisturbed_counts: dict, drawn: Path, tmp_path: Path
) -> None:
    """Two drivers begin the same sweep at once, and the worker that trains their Comp-GAN is killed."""
    store, over = tmp_path / "store", "synth.count=0,1,3"
    shutil.copytree(drawn / "store", store)
    artifacts = Artifacts(open_store(store), NodeCache(drawn / "cache"))
    sweep = make_sweep(
        artifacts, data="drawn", task="ER-FE", preset="tiny", shots=1, over=[over], seeds=1,
        overrides=small_sweep.settings(over),
    )  # fmt: skip
    workers, events = Workers(cpus_per_worker=1, checkpoint_every_s=1), ([], [])
    drivers = [
        threading.Thread(target=run_shared, args=(sweep, artifacts, Trials(), 0, workers, heard.append))
        for heard in events
    ]
    with Killer(store) as killer:
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
    first, second, *_ = turns(store, killer.fingerprint)  # and whoever found the record in its turn
    assert killer.killed == first != second
    continued = [
        any("continuing from the checkpoint at step" in e.get("message", "") for e in heard) for heard in events
    ]
    began = [any(e.get("name") == "compgan" and e["state"] == "running" for e in heard) for heard in events]
    assert began == [True, True] and continued.count(True) == 1
    assert killer.recorded.items() <= records(store).items()
    with small_sweep.cache(drawn / "cache"):
        facts = small.facts(small.orch(*small_sweep.command(store, tmp_path, over)))
    assert results(store, facts["sweep"]) == undisturbed_counts["results"]
