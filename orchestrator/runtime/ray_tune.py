"""Run trials with Ray Tune: it chooses configurations, places trials, retries what crashes, and stops what lags.

Tune is the executor. What must outlive it, the body of a trial writes to the store itself, since Tune's own state
cannot be extended and is unreadable after some crashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import ray
import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from compgan_core.errors import ConfigurationError
from orchestrator.runtime.cluster import Resources, Workers, alive_nodes, place
from orchestrator.runtime.mailbox import Event, Mailbox

SCORE, PROGRESS, ENDED = "score", "progress", "ended"
WHOLE = 100
"""The progress at which a trial's first result is complete; early stopping happens before."""

MIN_BUDGET_S = 60.0
SEARCHES = Literal["grid", "random", "optuna"]
SCHEDULERS = Literal["none", "asha", "median"]

Tell = Callable[[Event], None]
Body = Callable[[Mapping[str, Any], Tell], None]
"""A trial: told its configuration, it reports with `report`. Picklable. Failures on purpose are its own business."""


class Trials(BaseModel):
    """How trials run. Nothing here changes what they find, but which are run to their end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: SEARCHES = "grid"
    scheduler: SCHEDULERS = "none"
    concurrent: int | None = Field(None, ge=1)
    """None: as many as there are GPUs, or one for every two CPUs."""
    budget_s: float | None = Field(None, gt=0)
    max_failures: int = Field(2, ge=0)
    """Restarts that a trial may cost whose process dies."""
    seed: int = 0


def trials_of(*, search: str, scheduler: str, concurrent: int | None, budget_hours: float | None) -> Trials:
    """The settings that the command line names. Raises ConfigurationError for a wrong one."""
    for option, given, kinds in (("search", search, SEARCHES), ("scheduler", scheduler, SCHEDULERS)):
        if given not in get_args(kinds):
            raise ConfigurationError(f"--{option} {given}: choose one of {', '.join(get_args(kinds))}")
    if budget_hours is not None and budget_hours * 3600 < MIN_BUDGET_S:
        raise ConfigurationError(f"--budget {budget_hours:g} hours is too little for one trial: give more, or none")
    budget_s = None if budget_hours is None else budget_hours * 3600
    return Trials(search=search, scheduler=scheduler, concurrent=concurrent, budget_s=budget_s)


def report(score: float, progress: float, ended: int, **metrics: float) -> None:
    """Tell Tune how a trial does. Does not return if Tune stops the trial.

    score: more is better; comparable between trials at one progress. progress: rises from one report to the next.
    ended: 1 for the last report of a trial, which has then done all that it was to do.
    """
    tune.report({SCORE: score, PROGRESS: progress, ENDED: ended, **metrics})


def run_trials(
    body: Body,
    param_space: Mapping[str, Any],
    *,
    name: str,
    directory: Path,
    settings: Trials,
    samples: int = 1,
    known: list[tuple[dict[str, Any], float]] = [],  # noqa: B006
    on_event: Callable[[Event], object] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run the trials of a search space, each in a process that may serve several of them, one after another.

    directory: where Tune keeps its own logs and TensorBoard files, on this machine.
    samples: of an infinite space. known: configurations with their scores from earlier, for searchers that learn.
    on_event: called here with what the trials tell, each event with its "trial", and with {"kind": "trial", "trial",
    "config", "state": "running" | "done" | "stopped" | "crashed", "message"}.

    Raises:
        CapacityError: not even one trial can be placed.
        ConfigurationError: Optuna is asked for and not installed.
    """
    resources, concurrent = _resources(settings)
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    watcher = _Watcher(mailbox, on_event, should_stop, settings)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, body=body, mailbox=mailbox), dict(resources)),
        param_space=dict(param_space),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=_searcher(settings, known),
            scheduler=_scheduler(settings),
            num_samples=samples,
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # importing torch costs as much as a small trial
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(directory.absolute()),
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            callbacks=[watcher],
            stop=watcher.stopper,
            verbose=0,
        ),
    )
    tuner.fit()
    watcher.on_step_end(0, [])
    ray.kill(mailbox)


def numbered(count: int) -> Any:
    """A search space of the numbers below `count`, each tried once."""
    return tune.grid_search([*range(count)])


def _trial(config: dict[str, Any], body: Body, mailbox: Any) -> None:
    """What Tune calls in the trial's process."""
    trial = tune.get_context().get_trial_id()
    torch.set_num_threads(max(1, int(tune.get_context().get_trial_resources().required_resources.get("CPU", 1))))
    body(config, lambda event: mailbox.push.remote({**event, "trial": trial}))


class _Watcher(tune.Callback):
    """Passes on what happens, in the driver, between two of Tune's own steps."""

    def __init__(
        self, mailbox: Any, on_event: Callable[[Event], object], should_stop: Callable[[], bool], settings: Trials
    ):
        self._mailbox, self._on_event = mailbox, on_event
        self.stopper = _Asked(should_stop, settings.budget_s)

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        for event in ray.get(self._mailbox.take.remote()):
            self._on_event(event)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.on_step_end(iteration, trials)
        if trial.last_result.get(ENDED):
            self._tell(trial, "done")
        elif not self.stopper.stop_all():  # else it was not its own fault, and it goes on with the next command
            self._tell(trial, "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.on_step_end(iteration, trials)
        lines = (trial.get_error() and str(trial.get_error()).strip().splitlines()) or ["its process died"]
        self._tell(trial, "crashed", lines[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given into a file that we never read."""
        return {}

    def _tell(self, trial: Any, state: str, message: str = "") -> None:
        self._on_event(
            {"kind": "trial", "trial": trial.trial_id, "config": trial.config, "state": state, "message": message}
        )


class _Asked(tune.Stopper):
    """Ends the whole search when somebody asks for it, or its time is over."""

    def __init__(self, should_stop: Callable[[], bool], budget_s: float | None):
        self._should_stop, self._asked_at, self._stop = should_stop, float("-inf"), False
        self._until = float("inf") if budget_s is None else time.monotonic() + budget_s

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def stop_all(self) -> bool:
        now = time.monotonic()
        if not self._stop and now - self._asked_at > 2:
            self._asked_at, self._stop = now, now > self._until or self._should_stop()
        return self._stop


def _resources(settings: Trials) -> tuple[Resources, int]:
    """What each trial gets, and how many run at once. Raises CapacityError, with the arithmetic, if none can."""
    nodes = [node["Resources"] for node in alive_nodes()]
    gpus, cpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("GPU", "CPU"))
    concurrent = settings.concurrent or gpus or max(1, cpus // 2)
    return place(Workers(num_workers=concurrent), nodes), concurrent


def _scheduler(settings: Trials) -> TrialScheduler | None:
    if settings.scheduler == "none":
        return None
    if settings.scheduler == "median":
        return MedianStoppingRule(time_attr=PROGRESS, grace_period=WHOLE / 4, min_samples_required=3)
    return AsyncHyperBandScheduler(time_attr=PROGRESS, grace_period=WHOLE / 4, max_t=WHOLE * 1000, reduction_factor=2)


def _searcher(settings: Trials, known: list[tuple[dict[str, Any], float]]) -> Any:
    if settings.search != "optuna":
        return None
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)

        points, scores = [config for config, _ in known], [score for _, score in known]
        more = {"points_to_evaluate": points, "evaluated_rewards": scores} if known else {}
        return OptunaSearch(metric=SCORE, mode="max", seed=settings.seed, **more)
    except (ImportError, AssertionError) as error:
        raise ConfigurationError(
            f"--search optuna needs Optuna ({error}): install compgan-orchestrator[search], or use --search random"
        ) from error
