"""Kills any process of a job at any moment, drawn from a seed, and starts the same command again, until it is done."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import small_study as small

from jobs.train_alone import main as train_alone
from orchestrator.artifacts.artifacts import Record
from orchestrator.artifacts.store import Store
from orchestrator.runtime.checkpoints import Checkpoints

PATIENCE_S = 600.0  # for what nothing disturbs any more
SHORT = {
    **{"variants": '["plain"]', "compgan.schedule.steps": "24", "compgan.precision": "float32"},
    **{"compgan.generator.width": "4", "compgan.discriminator.width": "4", "judge.network.width": "8"},
    **{f"{stage}.schedule.batch": "8" for stage in ("pretrain", "classifier", "judge.training", "finetune.training")},
}
"""A run of seconds: nets as narrow as they come."""


class Acknowledged:
    """What a store has promised to keep: records, and by stage the step of the newest checkpoint."""

    def __init__(self, store: Store):
        self.store = store
        self.records = {k: store.get_bytes(k) for k in store.keys("artifacts/") if k.endswith("/record.json")}
        self.steps: dict[tuple[str, str], int] = {}
        for key in store.keys("checkpoints/"):
            if key.endswith(".json") and (parts := key.split("/")):
                self.steps[parts[1], parts[2]] = max(int(Path(key).stem), self.steps.get((parts[1], parts[2]), 0))

    def check_kept_in(self, now: Acknowledged) -> None:
        """Later, while nobody writes: nothing is lost, and every checkpoint there is whole."""
        assert self.records.items() <= now.records.items()
        for (stage, fingerprint), step in self.steps.items():
            if not now.has_record(stage, fingerprint):
                assert now.steps.get((stage, fingerprint), 0) >= step, f"{stage} {fingerprint} lost step {step}"
        for (stage, fingerprint), step in now.steps.items():
            with tempfile.TemporaryDirectory() as directory:
                Checkpoints(self.store, stage, fingerprint).fetch(step, Path(directory))

    def has_record(self, stage: str, fingerprint: str) -> bool:
        return f"artifacts/{stage}/{fingerprint}/record.json" in self.records

    @property
    def resumes_at(self) -> int:
        """The step that Comp-GAN must not start before, the next time that it starts."""
        return max(
            (s for (stage, fp), s in self.steps.items() if stage == "compgan" and not self.has_record(stage, fp)),
            default=0,
        )


def records_of(store: Store) -> list[Record]:
    return [Record.model_validate_json(data) for data in Acknowledged(store).records.values()]


def files_of(store: Store) -> dict[str, str]:
    """sha256 of every file of every recorded stage."""
    return {f"{r.stage}/{r.fingerprint}/{name}": f.sha256 for r in records_of(store) for name, f in r.files.items()}


class Alone:
    """`jobs/train_alone.py`, forked from a process that has imported everything: a start costs milliseconds."""

    def __init__(self, store: Path, cache: Path, log: Path):
        self.log = log
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["random_kills", "compgan_core.stages"])
        settings = small.options(str(store), **SHORT)
        self._arguments = [*settings, "--device", "cpu", "--checkpoint-every", "0.05"]
        self._cache = cache

    def start(self) -> None:
        self.log.write_bytes(b"")
        self._process = self._context.Process(target=_alone, args=(self._arguments, self._cache, self.log))
        self._process.start()

    def wait(self, seconds: float) -> int | None:
        """The exit code if it ends in that time."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self, rng: random.Random) -> str:
        self._process.kill()
        self._process.join()
        return "the one process"

    def end(self) -> None:
        """Nothing of it is left."""


def _alone(arguments: list[str], cache: Path, log: Path) -> None:
    os.environ["COMPGAN_CACHE"] = str(cache)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(train_alone(arguments))


class ThroughRay:
    """`orch train` with a Ray of its own, any process of which may die."""

    def __init__(self, url: str, log: Path):
        self.log = log
        options = [*small.options(url, **small.LONG, variants='["plain"]'), "--checkpoint-every", "0.1", "--json"]
        self._command = [small.ORCH, "train", *options]
        # or a minute passes after that server was killed
        self._environment = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}

    def start(self) -> None:
        self._seen: dict[int, psutil.Process] = {}
        with self.log.open("wb") as file:
            self._driver = subprocess.Popen(self._command, env=self._environment, stdout=file, stderr=file)

    def wait(self, seconds: float) -> int | None:
        try:
            return self._driver.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self, rng: random.Random) -> str:
        """A kind of process first, then one of that kind: idle workers are many."""
        by_name: dict[str, list[psutil.Process]] = {}
        for process in self._processes():
            by_name.setdefault(_name(process), []).append(process)
        name = rng.choice(sorted(by_name))
        victim = rng.choice(by_name[name])
        victim.kill()
        return name

    def end(self) -> None:
        """Its Ray ends with the driver; what outlives it for long is killed."""
        deadline = time.monotonic() + 20
        while (left := [p for p in self._seen.values() if p.is_running()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            process.kill()

    def _processes(self) -> Iterator[psutil.Process]:
        driver = psutil.Process(self._driver.pid)
        for process in (driver, *driver.children(recursive=True)):
            self._seen[process.pid] = process
            yield process


def _name(process: psutil.Process) -> str:
    try:
        line = process.cmdline()
    except psutil.NoSuchProcess:
        return "gone"
    titles = [part for part in line if part.startswith("ray::")]
    programs = [name for part in line if not part.startswith("-") and "python" not in (name := Path(part).name)]
    return (titles or programs or ["?"])[0]


def killed_until_done(
    job: Alone | ThroughRay, store: Store, rng: random.Random, kills: int, within_s: float, say: Callable[[str], object]
) -> int:
    """Kill the job at most `kills` times, each within so many seconds of the one before; how often it was killed.

    Returns once the job has ended as it should. Raises AssertionError if it does not, or if anything was lost.
    """
    done, before = 0, Acknowledged(store)
    while True:
        job.start()
        code, must_resume = None, before.resumes_at
        while code is None and done < kills:
            code = job.wait(rng.uniform(0, within_s))
            if code is None:
                before = Acknowledged(store)
                victim = job.kill(rng)
                done += 1
                say(f"kill {done}: {victim}, at {before.resumes_at or len(before.records)}")
                if victim == "the one process":
                    code = -9
        if code is None:
            code = job.wait(PATIENCE_S)
            assert code is not None, f"it hangs: {job.log.read_text()[-3000:]}"
        job.end()
        now = Acknowledged(store)
        before.check_kept_in(now)
        resumed = re.search(r"compgan: running.*\n(?:.*\n)*?.*step (\d+)", job.log.read_text())
        if must_resume and resumed:
            assert "continuing from" in resumed[0] and int(resumed[1]) >= must_resume, job.log.read_text()
        before = now
        if code == 0:
            return done
        assert done, f"it failed, and nothing had been killed: {job.log.read_text()[-3000:]}"
        if done >= kills and code > 0:
            say(f"ended with {code} after the last kill: {job.log.read_text().strip().splitlines()[-1][:200]}")
