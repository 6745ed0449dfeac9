"""Run trials with Ray Tune: it chooses configurations, places trials, retries what crashes, and stops what lags.

Tune is the executor. What must outlive it, the body of a trial writes to the store itself, since Tune's own state
cannot be extended and is unreadable after some crashes. A trial of one worker works in the process that Tune gives it.
One of several workers starts a Ray Train run, whose workers hold the resources; its own process holds none.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from compgan_core.errors import CapacityError, CompganError, ConfigurationError, retold, told
from orchestrator.runtime.cluster import Resources, Workers, alive_nodes, free_orphans, resources_per_worker
from orchestrator.runtime.mailbox import Event, Mailbox
from orchestrator.runtime.metrics import Exporter

HEAD_NODE = "node:__internal_head__"  # a resource that Ray gives to the head node
SCORE, PROGRESS, ENDED = "score", "progress", "ended"
WHOLE = 100
"""The progress at which a trial has done all that it was to do; early stopping happens before."""

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
    """None: as many as there are GPUs, or pairs of CPUs, for their workers."""
    budget_s: float | None = Field(None, gt=0)
    max_failures: int = Field(2, ge=0)
    """Restarts that a trial may cost whose process dies."""
    seed: int = 0


class Placement(NamedTuple):
    """Where trials run."""

    workers: Workers
    """Of each trial, with the CPUs that each of them gets."""
    resources: Resources
    """Of each worker."""
    concurrent: int
    """Trials at once: all their workers fit beside one another, so none waits for what another one holds."""


def trials_of(*, search: str, scheduler: str, concurrent: int | None, budget_hours: float | None) -> Trials:
    """The settings that the command line names. Raises ConfigurationError for a wrong one."""
    for option, given, kinds in (("search", search, SEARCHES), ("scheduler", scheduler, SCHEDULERS)):
        if given not in get_args(kinds):
            raise ConfigurationError(f"--{option} {given}: choose one of {', '.join(get_args(kinds))}")
    if budget_hours is not None and budget_hours * 3600 < MIN_BUDGET_S:
        raise ConfigurationError(f"--budget {budget_hours:g} hours is too little for one trial: give more, or none")
    budget_s = None if budget_hours is None else budget_hours * 3600
    return Trials(search=search, scheduler=scheduler, concurrent=concurrent, budget_s=budget_s)


def place_trials(settings: Trials, workers: Workers) -> Placement:
    """How many trials run at once, and what the workers of each get. Ray must be initialised.

    Raises CapacityError, with the arithmetic, if they can never be placed.
    """
    nodes = [node["Resources"] for node in alive_nodes()]
    gpus, cpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("GPU", "CPU"))
    each = workers.num_workers
    concurrent = settings.concurrent or max(1, (gpus or cpus // 2) // each)
    try:
        resources = resources_per_worker(workers.model_copy(update={"num_workers": concurrent * each}))
    except CapacityError as error:
        raise CapacityError(f"{concurrent} x {each} workers for {concurrent} trials at once: {error}") from error
    fixed = {"cpus_per_worker": int(resources["CPU"]), "use_gpu": "GPU" in resources}
    return Placement(workers.model_copy(update=fixed), resources, concurrent)


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
    placement: Placement,
    samples: int = 1,
    known: list[tuple[dict[str, Any], float]] = [],  # noqa: B006
    on_event: Callable[[Event], object] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run the trials of a search space; a process of trials of one worker serves several of them, one after another.

    directory: where Tune keeps its own logs and TensorBoard files, on this machine.
    samples: of an infinite space. known: configurations with their scores from earlier, for searchers that learn.
    on_event: called here with what the trials tell, each event with its "trial", and with {"kind": "trial", "trial",
    "config", "state": "running" | "restarted" | "done" | "stopped" | "crashed", "message"}.

    Raises ConfigurationError if Optuna is asked for and not installed.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # or Tune prints a banner, whatever its verbosity
    alone = placement.workers.num_workers == 1
    holds = placement.resources if alone else {HEAD_NODE: 0.001}  # as the driver does, it waits on the head node
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    watcher = _Watcher(mailbox, on_event, should_stop, settings, Exporter(name))
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trial, body=body, mailbox=mailbox), tune.PlacementGroupFactory([dict(holds)])
        ),
        param_space=dict(param_space),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=_searcher(settings, known),
            scheduler=_scheduler(settings),
            num_samples=samples,
            max_concurrent_trials=placement.concurrent,
            reuse_actors=alone,  # importing torch costs as much as a small trial; ending a Train run takes too long
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


def run_apart(
    bodies: Sequence[Callable[[Tell], None]], placement: Placement, on_event: Callable[[Event], object]
) -> None:
    """Run bodies that need one worker each, several at once, each in a process on the cluster; not trials of a search.

    on_event: called here with what they tell. Raises the CompganError of the first that raised one.
    """
    if not bodies:
        return
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    cpus, gpus = placement.resources["CPU"], placement.resources.get("GPU", 0)
    waiting = [ray.remote(num_cpus=cpus, num_gpus=gpus)(_apart).remote(body, mailbox) for body in bodies]
    try:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=0.2)
            for event in ray.get(mailbox.take.remote()):
                on_event(event)
            for failure in ray.get(ended):
                if failure:
                    raise retold(*failure)
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
        ray.kill(mailbox)


def _apart(body: Callable[[Tell], None], mailbox: Any) -> Any:
    try:
        body(lambda event: ray.get(mailbox.push.remote(event)))
    except CompganError as error:
        return told(error)
    return None


def _trial(config: dict[str, Any], body: Body, mailbox: Any) -> None:
    """What Tune calls in the trial's process."""
    trial = tune.get_context().get_trial_id()
    body(config, lambda event: mailbox.push.remote({**event, "trial": trial}))


class _Watcher(tune.Callback):
    """Passes on what happens, in the driver, between two of Tune's own steps."""

    def __init__(
        self,
        mailbox: Any,
        on_event: Callable[[Event], object],
        should_stop: Callable[[], bool],
        settings: Trials,
        exporter: Exporter,
    ):
        self._mailbox, self._on_event, self._exporter = mailbox, on_event, exporter
        self._states: dict[str, str] = {}
        self.stopper = _Asked(should_stop, settings.budget_s)
        self._freed_at = time.monotonic()

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        for event in ray.get(self._mailbox.take.remote()):
            self._on_event(event)
        if time.monotonic() - self._freed_at > 1:
            self._freed_at = time.monotonic()
            free_orphans()  # those of the Train runs of trials that were stopped or killed

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.on_step_end(iteration, trials)
        if trial.last_result.get(ENDED):
            self._tell(trial, "done")
        elif not self.stopper.stop_all():  # else it was not its own fault, and it goes on with the next command
            self._tell(trial, "stopped")

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(trial, "restarted", _last_line(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.on_step_end(iteration, trials)
        self._tell(trial, "crashed", _last_line(trial))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given into a file that we never read."""
        return {}

    def _tell(self, trial: Any, state: str, message: str = "") -> None:
        self._states[trial.trial_id] = state
        for known, count in tally(self._states).items():
            self._exporter.set("compgan_trials", count, state=known)
        self._on_event(
            {"kind": "trial", "trial": trial.trial_id, "config": trial.config, "state": state, "message": message}
        )


def tally(states: Mapping[str, str]) -> dict[str, int]:
    """How many trials are in which state; one that was restarted runs."""
    counted = Counter("running" if state == "restarted" else state for state in states.values())
    return {state: counted[state] for state in ("running", "done", "stopped", "crashed")}


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


def _last_line(trial: Any) -> str:
    """Why it failed."""
    error = trial.get_error()
    return ((error and str(error).strip().splitlines()) or ["its process died"])[-1]


def _scheduler(settings: Trials) -> TrialScheduler | None:
    if settings.scheduler == "none":
        return None
    if settings.scheduler == "median":
        return MedianStoppingRule(time_attr=PROGRESS, grace_period=WHOLE / 4, min_samples_required=3)
    # What has reached the end is never stopped: its last rung is at half of it.
    return AsyncHyperBandScheduler(
        time_attr=PROGRESS, grace_period=WHOLE / 4, max_t=WHOLE - 1, reduction_factor=2, stop_last_trials=False
    )


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
