"""What Ray Train and DeepSpeed cost the loop itself, once it runs.

Two processes train the same, one bare and one as the only worker of a Ray Train run, and take turns, a segment of ten
steps each: A B, B A, A B, ... So whatever else the machine does meets both alike, and each pair gives a ratio: of the
time that passed, and of the processor time, which others disturb least. Each computes in one thread, since threads
that wait for one another multiply every disturbance; what Ray's other processes take meanwhile is a figure of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.step import world
from benchmarks.timing import Figure, figure, interval
from compgan_core.compgan import CALLS
from compgan_core.recipe import make_recipe
from compgan_core.training import gan as gan_training
from compgan_core.training.runtime import Local, Runtime

SEGMENT, BATCH = 10, 8  # steps, tuples
PAIRS_PER_REPEAT = 8


def train(runtime: Runtime, address: str, name: str, segments: int) -> list[float]:
    """Comp-GAN training on noise at `tiny` size; each segment waits for its turn, and says what it took.

    Returns the seconds that it stood still for its checkpoints, which count in no segment.
    """
    torch.set_num_threads(1)
    steps = SEGMENT * segments
    recipe = make_recipe("tiny", "ER-FE", overrides={"compgan.schedule.steps": str(steps)})
    gan, discriminator, classifier, batch = world(recipe, BATCH, runtime.device)
    saves: list[np.ndarray] = []
    save = runtime.save_checkpoint

    def timed_save(*arguments) -> None:
        started = _clocks()
        save(*arguments)
        saves.append(_clocks() - started)

    runtime.save_checkpoint = timed_save
    with Client(address) as referee:
        referee.send((name, os.getpid()))
        started = np.zeros(2)

        def tuples(samples: np.ndarray):
            nonlocal started
            step = int(samples[0]) // BATCH
            if step % SEGMENT == 0:
                if step:
                    referee.send(_clocks() - started - sum(saves))
                referee.recv()
                started = _clocks() - sum(saves)
            return batch

        gan_training.train(
            runtime, gan, discriminator, classifier, tuples, recipe.compgan, recipe.lambda_, recipe.mu, BATCH
        )
        referee.send(_clocks() - started - sum(saves))
    return [float(save[0]) for save in saves]


def _clocks() -> np.ndarray:
    """Seconds: passed, and of this process on any processor."""
    return np.array([time.perf_counter(), time.process_time()])


def ray(device: torch.device, repeats: int) -> list[Figure]:
    """Bare and under Ray, in turns."""
    from orchestrator.artifacts.store import open_store
    from orchestrator.runtime.cluster import Workers, start_ray
    from orchestrator.runtime.ray_train import run

    pairs = repeats * PAIRS_PER_REPEAT
    segments = pairs + 1  # the first one warms up
    at_start = time.perf_counter()
    start_ray("local", dashboard=False)
    with_ray = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory, Listener(f"{directory}/turns") as listener:
        command = [sys.executable, "-m", "benchmarks.ray_overhead", listener.address, str(segments), str(device)]
        referee = _Referee(listener, pairs)
        with subprocess.Popen(command):
            referee.start()
            run(
                partial(_body, address=listener.address, segments=segments),
                name="benchmark",
                workers=Workers(checkpoint_every_steps=SEGMENT * PAIRS_PER_REPEAT),
                store=open_store(Path(directory) / "store"),
                on_event=referee.events.append,
            )
            ended = time.perf_counter()
            referee.join()
    images = SEGMENT * BATCH * len(CALLS)
    bare, under_ray = (np.array(referee.seconds[name]) for name in ("bare", "ray"))
    passed, processor = (bare / under_ray).T.tolist()
    saves = next(event["saves"] for event in referee.events if event["kind"] == "benchmark")
    return [
        figure("Comp-GAN loop, tiny, bare, one thread", "images/s", (images / bare[:, 0]).tolist()),
        figure("Comp-GAN loop, tiny, Ray + DeepSpeed, 1 worker", "images/s", (images / under_ray[:, 0]).tolist()),
        interval("the same / bare, pair by pair, 95% of the median", "times", passed),
        interval("the same of processor time", "times", processor),
        figure("for a checkpoint of it the training stands still", "s", saves),
        figure("all other processes of Ray meanwhile", "cores", referee.cores),
        figure("starting Ray", "s", [with_ray - at_start]),
        figure("from there to the first step of a stage", "s", [referee.ready_at - with_ray]),
        figure("from its last step to the driver, which records it", "s", [ended - referee.done_at]),
    ]


class _Referee(threading.Thread):
    """Lets one of the two run at a time, in changing order."""

    def __init__(self, listener: Listener, pairs: int):
        super().__init__(daemon=True)
        self.seconds: dict[str, list[np.ndarray]] = {"bare": [], "ray": []}
        self.cores: list[float] = []
        self.ready_at = self.done_at = 0.0
        """When the one under Ray was about to do its first step, and when it had done its last."""
        self.events: list[dict] = []
        self._listener, self._pairs = listener, pairs

    def run(self) -> None:
        runners: dict[str, Connection] = {}
        pids: dict[str, int] = {}
        for _ in range(2):
            runner = self._listener.accept()
            name, pid = runner.recv()
            runners[name], pids[name] = runner, pid
            if name == "ray":
                self.ready_at = time.perf_counter()
        for pair in range(-1, self._pairs):
            for name in ("bare", "ray") if pair % 2 else ("ray", "bare"):
                before, started = _cpu_seconds_besides(pids), time.perf_counter()
                runners[name].send("go")
                seconds = runners[name].recv()
                if name == "ray":
                    self.done_at = time.perf_counter()
                if pair >= 0:
                    self.seconds[name].append(seconds)
                    used = _cpu_seconds_besides(pids) - before
                    self.cores += [used / (time.perf_counter() - started)] if name == "ray" else []


def _cpu_seconds_besides(runners: dict[str, int]) -> float:
    """Of this process and all that it has started."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        if process.pid not in runners.values():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def _body(runtime, address: str, segments: int) -> None:
    runtime.begin("benchmark", "0" * 20)
    runtime.emit({"kind": "benchmark", "saves": train(runtime, address, "ray", segments)})


if __name__ == "__main__":
    train(Local(sys.argv[3]), sys.argv[1], "bare", int(sys.argv[2]))
