"""Sweeps over the small study, and who disturbs them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import small_study as small

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.sweeps.ledger import Ledger

COMPGAN_STEPS = "50"  # long enough to be killed in


def settings(over: str) -> dict[str, str]:
    """What is the same for all configurations."""
    chosen = small.SETTINGS | {"compgan.schedule.steps": COMPGAN_STEPS}
    return {key: value for key, value in chosen.items() if key != over.partition("=")[0]}


def command(url: str | Path, directory: Path, over: str = "synth.count=0,1,3") -> list[str]:
    """directory: where the report goes."""
    sets = [part for key, value in settings(over).items() for part in ("--set", f"{key}={value}")]
    options = ["--data", "drawn", "--task", "ER-FE", "--preset", "tiny", "--shots", "1", "--seeds", "1"]
    quick = ["--checkpoint-every", "1", "--json"]
    return ["sweep", *options, "--over", over, "--store", str(url), "--report", str(directory), *quick, *sets]


def prepare(url: Path, cache: Path, over: str) -> None:
    """Run what the trials of a sweep share."""
    from orchestrator.runtime.cluster import Workers  # which imports Ray
    from orchestrator.runtime.ray_tune import Trials
    from orchestrator.sweeps.sweep import make_sweep, run_shared

    artifacts = Artifacts(open_store(url), NodeCache(cache))
    sweep = make_sweep(
        artifacts, data="drawn", task="ER-FE", preset="tiny", shots=1, over=[over], seeds=1, overrides=settings(over)
    )
    run_shared(sweep, artifacts, Trials(), 0, Workers(), lambda event: None)


@contextlib.contextmanager
def cache(directory: Path) -> Iterator[None]:
    """The commands in this process keep there what they fetch."""
    with patch.dict(os.environ, COMPGAN_CACHE=str(directory)):
        yield


def records(url: str | Path) -> dict[tuple[str, str], str]:
    """(stage, fingerprint) -> when it was recorded."""
    found = Artifacts(open_store(str(url)), NodeCache(Path())).records()
    return {(record.stage, record.fingerprint): record.created for record in found}


def scores(facts: dict) -> dict[str, float]:
    return {json.dumps(line["values"]): line["mean"] for line in facts["leaderboard"]}


def results(url: str | Path, sweep: str) -> dict[str, Any]:
    """All that a sweep has measured, and the hashes of the Comp-GANs, but no time."""
    ledger, store = Ledger(open_store(str(url))), Artifacts(open_store(str(url)), NodeCache(Path()))
    rows = {json.dumps(trial.values): trial.results for trial in ledger.trials(sweep).values()}
    rows |= ledger.test(sweep).rows
    measured = {title: [(r.seed, r.metrics, r.stages) for r in found] for title, found in rows.items()}
    gans = {r.fingerprint: sorted(entry.sha256 for entry in r.files.values()) for r in store.records("compgan")}
    return {"measured": measured, "gans": gans}


def continued_at(said: str) -> int:
    """The step of the checkpoint that a command said it continued from, the latest; -1 if it said nothing."""
    return max(map(int, re.findall(r"continuing from the checkpoint at step (\d+)", said)), default=-1)


def turns(url: str | Path, fingerprint: str) -> list[int]:
    """Who held the lease of a Comp-GAN, turn by turn: numbers of processes."""
    store = open_store(str(url))
    keys = sorted(key for key in store.keys(f"leases/compgan/{fingerprint}/") if not key.endswith(".beat"))
    return [json.loads(store.get_bytes(key))["pid"] for key in keys]


def ray_processes(name: str) -> list[psutil.Process]:
    """Those of this session's Ray that are called so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if f"ray::{name}" in " ".join(process.cmdline()):
                found.append(process)
    return found


def trial_process() -> int:
    """The number of the process that Tune gave the trial that runs."""
    (process,) = ray_processes("ImplicitFunc")
    return process.pid


class Killer(threading.Thread):
    """While it is entered: kills once, as soon as a Comp-GAN in training has an acknowledged checkpoint.

    victim: the process to kill, told that of the one that trains, which is the default.
    """

    def __init__(self, url: str | Path, victim: Callable[[int], int] = lambda owner: owner):
        super().__init__(daemon=True)
        self.url, self.victim = url, victim
        self.over = threading.Event()
        self.fingerprint, self.step = "", 0
        self.killed: int | None = None
        self.recorded: dict[tuple[str, str], str] = {}
        """What was recorded then."""

    def run(self) -> None:
        store = open_store(str(self.url))
        while not self.over.is_set():
            for key in store.keys("checkpoints/compgan/"):
                if not key.endswith(".json"):
                    continue
                self.recorded = records(self.url)
                *_, self.fingerprint, name = key.split("/")
                self.killed, self.step = self.victim(turns(self.url, self.fingerprint)[-1]), int(Path(name).stem)
                os.kill(self.killed, signal.SIGKILL)
                return
            time.sleep(0.02)

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


class Memory(threading.Thread):
    """While it is entered: the most that all processes of this one's Ray took together, shared pages counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.most_bytes = self.most_processes = self.most_trials = 0

    def run(self) -> None:
        while not self.over.wait(1):
            processes, total = psutil.Process().children(recursive=True), 0
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    total += process.memory_full_info().pss
            self.most_bytes = max(self.most_bytes, total)
            self.most_processes = max(self.most_processes, len(processes))
            self.most_trials = max(self.most_trials, len(ray_processes("ImplicitFunc")))

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
