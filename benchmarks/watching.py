"""What being watched costs a training loop: reports, metrics, the stopwatch and the fixed faces.

One worker of a Ray Train run trains, and is watched in every other block of ten steps: A B, B A, ... Each pair of
neighbours gives a ratio of processor time, all threads of the worker together, which other processes disturb least.
Pictures, one in fifty steps, are drawn between the blocks and timed alone, because one alone decides over a block.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step import world
from benchmarks.timing import Figure, figure, interval
from compgan_core.compgan import Tuples
from compgan_core.lapse import AT_LEAST, PEOPLE, Lapse
from compgan_core.recipe import make_recipe
from compgan_core.training import gan as gan_training
from compgan_core.training.stopwatch import Stopwatch
from orchestrator.monitor.runs import faces_key

BLOCK, BATCH = 10, 8  # steps, tuples
PAIRS_PER_REPEAT = 20
FINGERPRINT = "0" * 20


def watching(device: torch.device, repeats: int) -> list[Figure]:
    """Loops and what they show, in turns."""
    from orchestrator.artifacts.store import open_store
    from orchestrator.runtime.cluster import Workers, start_ray
    from orchestrator.runtime.ray_train import run

    start_ray("local", dashboard=False)
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        body = partial(_body, pairs=PAIRS_PER_REPEAT * repeats)
        store = open_store(Path(directory) / "store")
        run(body, name="benchmark", workers=Workers(checkpoint_every_s=1e9), store=store, on_event=events.append)
    told = next(event for event in events if event["kind"] == "benchmark")
    watched, alone, draws = (np.array(told[name]) for name in ("watched", "alone", "draws"))
    reports = sum(event["kind"] == "progress" for event in events)
    return [
        figure("Comp-GAN, tiny, processor time of a step, not watched", "ms", (1000 * alone / BLOCK).tolist()),
        interval("the same watched / not, pair by pair, 95% of the median", "times", (watched / alone).tolist()),
        figure("a picture of the fixed faces, every 50 steps, beside that", "ms", (1000 * draws).tolist()),
        figure("reports that reached the driver", "", [reports]),
    ]


def first_people(batch: Tuples) -> Tuples:
    """Those who are watched, of a batch."""
    return Tuples(*(x[:, :PEOPLE] if x.ndim > 1 else x[:PEOPLE] for x in batch.tensors))


def _body(runtime: Any, pairs: int) -> None:
    torch.set_num_threads(1)
    steps = BLOCK * (2 * pairs + 1)  # the first block warms up
    recipe = make_recipe("tiny", "ER-FE", overrides={"compgan.schedule.steps": str(steps)})
    gan, discriminator, classifier, batch = world(recipe, BATCH, runtime.device)
    runtime.begin("benchmark", FINGERPRINT)
    watched = [False] + [on for pair in range(pairs) for on in ((True, False) if pair % 2 else (False, True))]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    draws: list[float] = []
    lapse = Lapse.__new__(Lapse)  # of the same noise, so that no data set is needed
    lapse.batch = first_people(batch)
    report, to = runtime.report, Stopwatch.to
    started = 0.0

    def draw(step: int) -> None:
        began = time.process_time()
        runtime.store.put_bytes(faces_key(FINGERPRINT, step), lapse({"pose": gan.pose, "exp": gan.exp}))
        draws.append(time.process_time() - began)

    def turn(block: int) -> None:
        nonlocal started
        if block > 1:
            seconds[watched[block - 1]].append(time.process_time() - started)
        if block * BLOCK % AT_LEAST == 0:
            draw(block * BLOCK)
        if block < len(watched):
            on = watched[block]
            runtime.report = report if on else lambda *_: None
            Stopwatch.to = to if on else lambda self, part: None  # type: ignore[method-assign]
            runtime.exporter.begin("benchmark")  # which forgets all gauges
        started = time.process_time()

    def tuples(samples: np.ndarray) -> Tuples:
        step = int(samples[0]) // BATCH
        if step % BLOCK == 0:
            turn(step // BLOCK)
        return batch

    gan_training.train(
        runtime, gan, discriminator, classifier, tuples, recipe.compgan, recipe.lambda_, recipe.mu, BATCH
    )
    turn(len(watched))
    runtime.emit({"kind": "benchmark", "watched": seconds[True], "alone": seconds[False], "draws": draws})
