"""What Ray Train and DeepSpeed cost the loop itself, once it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.step import world
from benchmarks.timing import Figure, figure
from compgan_core.compgan import CALLS
from compgan_core.recipe import make_recipe
from compgan_core.training import gan as gan_training
from compgan_core.training.runtime import Local, Runtime

STEPS, WARM_UP, BATCH = 60, 15, 8


def train(runtime: Runtime) -> float:
    """Images a second of Comp-GAN training on noise at `tiny` size, its first steps left out."""
    recipe = make_recipe("tiny", "ER-FE", overrides={"compgan.schedule.steps": str(STEPS)})
    gan, discriminator, classifier, batch = world(recipe, BATCH, runtime.device)
    marks: list[float] = []

    def tuples(samples: np.ndarray):
        marks.append(time.perf_counter())
        return batch

    gan_training.train(
        runtime, gan, discriminator, classifier, tuples, recipe.compgan, recipe.lambda_, recipe.mu, n_examples=BATCH
    )
    return (STEPS - WARM_UP) * BATCH * len(CALLS) / (time.perf_counter() - marks[WARM_UP])


def ray(device: torch.device, repeats: int) -> list[Figure]:
    """Bare and under Ray in turn, each in a process of its own with the same number of threads."""
    from orchestrator.artifacts.store import open_store
    from orchestrator.runtime.cluster import Workers, start_ray
    from orchestrator.runtime.ray_train import run

    start_ray("local", dashboard=False)
    bare, under_ray = [], []
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(Path(directory) / "store")
        for repeat in range(repeats):
            bare.append(float(_in_process(device)))
            events: list[dict] = []
            run(_body, name=f"benchmark-{repeat}", workers=Workers(), store=store, on_event=events.append)
            under_ray.append(next(e["images_per_s"] for e in events if e["kind"] == "benchmark"))
    ratios = [r / b for r, b in zip(under_ray, bare, strict=True)]
    return [
        figure("Comp-GAN loop, tiny, bare", "images/s", bare),
        figure("Comp-GAN loop, tiny, Ray + DeepSpeed, 1 worker", "images/s", under_ray),
        figure("Comp-GAN loop, tiny, Ray + DeepSpeed / bare", "times", ratios),
    ]


def _body(runtime) -> None:
    runtime.begin("benchmark", "0" * 20)
    runtime.emit({"kind": "benchmark", "images_per_s": train(runtime)})


def _in_process(device: torch.device) -> str:
    command = [sys.executable, "-m", "benchmarks.ray_overhead", str(device)]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads}).stdout


if __name__ == "__main__":
    print(train(Local(sys.argv[1])))
