"""What is known of runs: small objects in the store, so that watchers need nothing else and can disturb nothing.

    runs/<id>/head.json          create-only: what was asked for
    runs/<id>/status.json        overwritten every few seconds by whoever drives the run; its age is a heartbeat
    runs/<id>/log/<n>.jsonl      lines of the log, a new object whenever there are new lines
    runs/<id>/stop               somebody asked it to end

A watcher only reads. Ids begin with the time, so that their order is that of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compgan_core.errors import ConfigurationError, StorageError, did_you_mean
from orchestrator.artifacts.store import KeyMissing, Store

RUNS = "runs"
LOST_AFTER_S = 45.0
"""A running run that has not written its status for so long is taken for killed."""
HISTORY_ROWS = 160
PARALLEL_READS = 8  # a bucket takes tens of milliseconds to answer for each

Event = Mapping[str, Any]
"""What drivers and workers tell of a run: plain dicts, so that they can cross processes.

    {"kind": "stage", "name", "fingerprint", "state": "cached" | "running" | "done", "seconds"}   None while it runs
    {"kind": "progress", "step", "steps", "metrics": {name: number}}      of the stage that runs
    {"kind": "worker" | "checkpoint" | "faces", ...}                      the fields of the entries below
    {"kind": "log" | "warning", "message", "stage", "rank"}               the last two if it is a worker's
"""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


AnyEntry = TypeVar("AnyEntry", bound=_Entry)


class PlannedStage(_Entry):
    """A stage as the plan had it before the run. `inputs` are names of stages."""

    name: str
    kind: str
    fingerprint: str
    plan: Literal["cached", "run", "not needed"]
    inputs: tuple[str, ...]


class RunHead(_Entry):
    """What was asked for. Times are seconds since 1970."""

    id: str
    command: str
    description: str
    study: str
    dataset: str
    recipe: dict[str, Any]
    variants: dict[str, str]
    """Rows of the table: variant -> title."""
    stages: tuple[PlannedStage, ...]
    workers: dict[str, Any]
    address: str
    job: str = ""
    """The job of Ray's job server that drives it, if one does."""
    host: str
    code_version: str
    started_at: float
    price_per_hour: float | None = None

    def seconds(self, status: Status, now: float) -> float:
        """How long it has run, or ran: up to its last sign of life if it is not running."""
        return max(0.0, (now if status.seen(now) == "running" else status.updated_at) - self.started_at)

    def cost(self, status: Status, now: float) -> float | None:
        """What the cluster has cost since the run began, if its price is known."""
        return None if self.price_per_hour is None else self.price_per_hour * self.seconds(status, now) / 3600


class StageStatus(_Entry):
    """How far a stage is."""

    state: Literal["waiting", "running", "cached", "done"] = "waiting"
    seconds: float | None = None
    started_at: float = 0.0
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = {}
    first_report: tuple[int, float] | None = None
    """(step, time), from which the speed is taken; a resumed stage makes it at a later step than the first."""
    last_report_at: float = 0.0

    def seconds_left(self, now: float) -> float | None:
        """At the mean speed since the first report; None until there are two reports."""
        if self.first_report is None:
            return None
        steps, seconds = self.step - self.first_report[0], self.last_report_at - self.first_report[1]
        if steps <= 0 or seconds <= 0:
            return None
        return max(0.0, (self.steps - self.step) * seconds / steps - (now - self.last_report_at))


class WorkerFacts(_Entry):
    """A training worker: where it runs and on what."""

    rank: int
    host: str
    pid: int
    device: str


class SavedCheckpoint(_Entry):
    """The last checkpoint that was acknowledged; `seconds` is what saving it took."""

    stage: str
    step: int
    size_bytes: int
    seconds: float
    at: float


class DrawnFaces(_Entry):
    """The newest picture of the fixed faces."""

    key: str
    step: int


class LogLine(_Entry):
    """One line of the log; `rank` is None for the driver, `stage` empty outside any."""

    at: float
    stage: str
    rank: int | None
    message: str


class Status(_Entry):
    """How a run is now."""

    state: Literal["running", "done", "failed", "interrupted"] = "running"
    error: str = ""
    updated_at: float = 0.0
    stages: dict[str, StageStatus] = {}
    current: str = ""
    """The stage that runs, or ran last."""
    history: list[dict[str, float]] = []
    """Rows of metrics of the present stage, each with its `step`, thinned out so that there are few."""
    workers: list[WorkerFacts] = []
    checkpoint: SavedCheckpoint | None = None
    faces: DrawnFaces | None = None
    lines: list[LogLine] = []
    """The newest of the log."""

    def seen(self, now: float) -> str:
        """Its state, or `lost` if it should be running and has been silent for too long."""
        return "lost" if self.state == "running" and now - self.updated_at > LOST_AFTER_S else self.state


class StatusOf:
    """The status of a run, kept up to date by its events. stages: those that will come, with their states."""

    def __init__(self, stages: Mapping[str, Literal["waiting", "cached"]]):
        self.status = Status(stages={name: StageStatus(state=state) for name, state in stages.items()})

    def update(self, event: Event, now: float) -> bool:
        """Take in an event; whether somebody will want to see it at once."""
        status = self.status
        match event["kind"]:
            case "stage":
                stage = status.stages.setdefault(event["name"], StageStatus())
                if stage.state in (event["state"], "done"):
                    return False  # every worker may tell of every stage, and again after a restart
                stage.state, stage.seconds = event["state"], event["seconds"]
                if stage.state == "running":
                    stage.started_at, status.current, status.history = now, event["name"], []
                return True
            case "progress":
                self._progress(event, now)
            case "worker":
                facts = {name: event[name] for name in WorkerFacts.model_fields}
                others = [worker for worker in status.workers if worker.rank != event["rank"]]
                status.workers = sorted([*others, WorkerFacts(**facts)], key=lambda worker: worker.rank)
            case "checkpoint":
                facts = {name: event[name] for name in SavedCheckpoint.model_fields if name != "at"}
                status.checkpoint = SavedCheckpoint(**facts, at=now)
            case "faces":
                status.faces = DrawnFaces(key=event["key"], step=event["step"])
        return False

    def _progress(self, event: Event, now: float) -> None:
        stage, step = self.status.stages.get(self.status.current), event["step"]
        if stage is None:
            return
        if stage.first_report is None or step < stage.step:  # the first, or the first after a worker was lost
            stage.first_report = step, now
            self.status.history = [row for row in self.status.history if row["step"] < step]
        stage.step, stage.steps, stage.last_report_at = step, event["steps"], now
        stage.metrics = dict(event["metrics"])
        self.status.history.append({"step": step, **event["metrics"]})
        if len(self.status.history) > HISTORY_ROWS:
            self.status.history = self.status.history[::2]


class Runs:
    """The runs of one store. Every method raises StorageError if the store fails or an object is damaged."""

    def __init__(self, store: Store):
        self.store = store

    def ids(self) -> list[str]:
        """All runs, the newest first."""
        parts = [key.split("/") for key in self.store.keys(f"{RUNS}/")]
        return sorted((p[1] for p in parts if len(p) == 3 and p[2] == "head.json"), reverse=True)

    def find(self, prefix: str | None) -> RunHead:
        """The newest run whose id begins so, or the newest of all. Raises ConfigurationError if there is none."""
        ids = self.ids()
        found = [id_ for id_ in ids if id_.startswith(prefix or "")]
        if not found:
            others = did_you_mean(prefix, ids[:10]) if ids and prefix else f"{self.store.url} has none yet"
            raise ConfigurationError(f"no run {prefix or ''!r}; {others}")
        return self.head(found[0])

    def of_job(self, job: str) -> RunHead | None:
        """The run that a job drives, if it is among the newest."""
        return next((head for head in map(self.head, self.ids()[:10]) if head.job == job), None)

    def ask_to_stop(self, id_: str) -> None:
        """Its driver looks for this every few seconds."""
        self.store.put_bytes(stop_key(id_), b"{}")

    def head(self, id_: str) -> RunHead:
        return self._read(RunHead, head_key(id_))

    def status(self, id_: str) -> Status:
        """How it is. A run that has just begun has no status yet, and is said to be running."""
        try:
            return self._read(Status, status_key(id_))
        except KeyMissing:
            return Status(updated_at=self.head(id_).started_at)

    def newest(self, count: int | None = None) -> list[tuple[RunHead, Status]]:
        """The newest runs with their states."""
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            return list(pool.map(lambda id_: (self.head(id_), self.status(id_)), self.ids()[:count]))

    def log(self, id_: str, follow: bool = False, poll_s: float = 2.0) -> Iterator[LogLine]:
        """Its lines, oldest first. follow: and those to come, until it has ended."""
        read: set[str] = set()
        while True:
            ended = self.status(id_).seen(time.time()) != "running"  # asked before the lines are, or the last are lost
            for key in self.store.keys(f"{RUNS}/{id_}/log/"):
                if key not in read:
                    read.add(key)
                    yield from self._lines(key)
            if ended or not follow:
                return
            time.sleep(poll_s)

    def _lines(self, key: str) -> Iterator[LogLine]:
        for line in self.store.get_bytes(key).splitlines():
            yield self._parsed(LogLine, key, line)

    def _read(self, kind: type[AnyEntry], key: str) -> AnyEntry:
        return self._parsed(kind, key, self.store.get_bytes(key))

    def _parsed(self, kind: type[AnyEntry], key: str, text: bytes) -> AnyEntry:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise StorageError(
                f"{key} in {self.store.url} is damaged ({place}: {first['msg']}); delete it: no result depends on it"
            ) from error


def faces_key(fingerprint: str, step: int) -> str:
    """The picture that a Comp-GAN training drew after a step; drawn again after a restart, it is the same object."""
    return f"{faces_of(fingerprint)}{step:08d}.jpg"


def faces_of(fingerprint: str) -> str:
    """The prefix of all pictures of a Comp-GAN training, by the fingerprint of its stage."""
    return f"lapse/{fingerprint}/"


def head_key(id_: str) -> str:
    return f"{RUNS}/{id_}/head.json"


def status_key(id_: str) -> str:
    return f"{RUNS}/{id_}/status.json"


def stop_key(id_: str) -> str:
    return f"{RUNS}/{id_}/stop"


def log_key(id_: str, number: int) -> str:
    return f"{RUNS}/{id_}/log/{number:06d}.jsonl"
