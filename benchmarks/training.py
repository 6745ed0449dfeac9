"""Whole training loops on faces of noise: feed, step, optimizers, metrics."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step import CLASSES, world
from benchmarks.timing import Figure, figure
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.labels import Labels
from compgan_core.data.tuples import TupleSampler
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.recipe import Recipe, make_recipe
from compgan_core.training import classifier as supervised
from compgan_core.training import gan as gan_training
from compgan_core.training import loop
from compgan_core.training.runtime import Local

PRESET = {"cpu": "tiny", "cuda": "small"}
STEPS, WARM_UP = {"cpu": 30, "cuda": 300}, {"cpu": 5, "cuda": 50}
SHAPE = (20, 4, 16, 2)  # identities, poses, expressions, frames


def training(device: torch.device, repeats: int) -> list[Figure]:
    """Steps a second of Comp-GAN's and of the classifier's loop; on a GPU beside the same loops launched by Python."""
    preset, steps = PRESET[device.type], STEPS[device.type]
    schedules = {f"{name}.schedule.steps": str(steps) for name in ("compgan", "classifier")}
    recipe = make_recipe(preset, "ER-FE", overrides=schedules)
    figures = []
    with tempfile.TemporaryDirectory(prefix="compgan-benchmark-") as directory:
        faces = _faces(Path(directory), recipe.faces.stored_size)
        for name, train in (("Comp-GAN", _train_gan), ("classifier", _train_classifier)):
            rates: dict[str, list[float]] = {"": [], ", launched by Python": []}
            for _ in range(repeats):
                rates[""].append(train(recipe, faces, device))
                if device.type == "cuda":
                    with launched_by_python():
                        rates[", launched by Python"].append(train(recipe, faces, device))
            label = f"{name} training, {preset}"
            figures += [figure(f"{label}{how}", "steps/s", values) for how, values in rates.items() if values]
    return figures


def _train_gan(recipe: Recipe, faces: Faces, device: torch.device) -> float:
    gan, discriminator, classifier, _ = world(recipe, 1, device)
    sampler = TupleSampler(faces.labels, np.arange(len(faces.labels)), 0, recipe.compgan.reference_mismatch)
    tuples = gan_training.tuples_of(faces, sampler, recipe.faces.size, 0, device)
    clock, options = _Clock(device), recipe.compgan
    gan_training.train(
        Local(device), gan, discriminator, classifier, clock.of(tuples), options, recipe.lambda_, recipe.mu, len(faces)
    )
    return clock.rate()


def _train_classifier(recipe: Recipe, faces: Faces, device: torch.device) -> float:
    model = FaceClassifier(recipe.network, recipe.faces.size, **CLASSES).to(device)
    source = supervised.epochs_of(faces, np.arange(len(faces.labels)), recipe.faces.size, 0, device)
    clock = _Clock(device)
    supervised.train(Local(device), model, clock.of(source), recipe.classifier, len(faces), 0)
    return clock.rate()


class _Clock:
    """Steps a second from the end of the warm-up to the end of the training, from the calls of its feed."""

    def __init__(self, device: torch.device):
        self._device, self._calls, self._started = device, 0, 0.0

    def of(self, feed: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        def watched(samples: np.ndarray) -> Any:
            if self._calls == WARM_UP[self._device.type]:
                self._settle()
                self._started = time.perf_counter()
            self._calls += 1
            return feed(samples)

        return watched

    def rate(self) -> float:
        self._settle()
        return (self._calls - WARM_UP[self._device.type]) / (time.perf_counter() - self._started)

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextlib.contextmanager
def launched_by_python() -> Iterator[None]:
    """No graph, and the metrics read after every step."""
    before = gan_training.graphed, supervised.graphed, loop.SETTLE_EVERY
    gan_training.graphed = supervised.graphed = lambda compute, device: compute
    loop.SETTLE_EVERY = 1
    try:
        yield
    finally:
        gan_training.graphed, supervised.graphed, loop.SETTLE_EVERY = before


def _faces(directory: Path, size: int) -> Faces:
    grid = np.stack(np.meshgrid(*map(range, SHAPE), indexing="ij"), -1).reshape(-1, 4)
    labels = Labels.from_names(
        *([f"{name}{v}" for v in grid[:, i]] for i, name in enumerate("ipe")),
        sequence=[f"s{i}{e}" for i, _, e, _ in grid],
        frame=grid[:, 3],
        key=[f"{row}" for row in map(tuple, grid.tolist())],
    )
    images = np.random.default_rng(0).integers(0, 256, (len(grid), size, size, 3), dtype=np.uint8)
    write_cache(images, labels, directory)
    return Faces.open(directory)
