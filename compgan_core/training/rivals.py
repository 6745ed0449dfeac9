"""Training of a rival generator, whichever it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compgan_core.compgan import Tuples
from compgan_core.rivals import RivalRecipe
from compgan_core.rivals.base import EDITED, Rival
from compgan_core.rivals.layers import synchronise
from compgan_core.training.loop import Trainee, Update, fit
from compgan_core.training.optim import build
from compgan_core.training.runtime import Runtime, share
from compgan_core.training.stopwatch import timed


def train(
    runtime: Runtime, rival: Rival, tuples: Callable[[np.ndarray], Tuples], recipe: RivalRecipe, n_examples: int
) -> list[dict[str, float]]:
    """Train a rival's networks in place; returns the history. n_examples: base images, which make an epoch.

    A worker holds its whole share of a batch at once, so that statistics of the batch are those of all of it.
    """
    schedule, optimizer = recipe.schedule, recipe.optimizer
    trainees = {}
    for name, network in rival.networks.items():
        synchronise(network.train(), runtime)
        engine = runtime.engine(network, build(network, optimizer), optimizer.max_grad_norm)
        trainees[name] = Trainee(engine, optimizer.lr)

    def update(step: int) -> Update:
        start = step * schedule.batch
        mine = np.arange(start, start + schedule.batch)[share(runtime, schedule.batch)]
        with timed("data"):
            batch = tuples(mine)
        return rival.update(batch, mine, step, runtime)

    steps = schedule.total_steps(n_examples)
    return fit(runtime, trainees, update, schedule, steps, schedule.batch * len(EDITED), moving=rival.moving)
