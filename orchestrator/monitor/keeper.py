"""Writing the ledger of a run, beside it: a thread sends what has changed, so that no store can slow training down."""

from __future__ import annotations

import _thread
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from compgan_core.errors import StorageError
from orchestrator.artifacts.provenance import code_version, host
from orchestrator.artifacts.store import Store
from orchestrator.monitor.runs import (
    Event,
    LogLine,
    PlannedStage,
    RunHead,
    StatusOf,
    head_key,
    log_key,
    status_key,
    stop_key,
)
from orchestrator.study import Plan, Study

STOP = signal.SIGUSR2
WRITE_EVERY_S = 3.0
"""0.15 dollars a day for the requests, at the prices of S3."""
SOON_S = 0.5  # after a stage changed
PENDING_LINES = 1000
NEWEST_LINES = 12


def head_of(
    study: Study,
    plan: Plan,
    *,
    command: str,
    workers: Mapping[str, Any],
    address: str,
    job: str,
    price_per_hour: float | None,
) -> RunHead:
    """The head of a run that begins now."""
    now = time.time()
    task = study.recipe.split.task.lower()
    return RunHead(
        id=f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{task}-{uuid.uuid4().hex[:4]}",
        command=command,
        description=study.description,
        study=study.name,
        dataset=study.dataset.manifest.name,
        recipe=study.recipe.model_dump(mode="json", by_alias=True),
        variants=study.titles,
        stages=tuple(
            PlannedStage(
                name=step.stage.name,
                kind=step.stage.kind,
                fingerprint=step.stage.fingerprint,
                plan=step.state,
                inputs=tuple(stage.name for stage in step.stage.stage_inputs()),
            )
            for step in plan.steps
        ),
        workers=dict(workers),
        address=address,
        job=job,
        host=host(),
        code_version=code_version(),
        started_at=now,
        price_per_hour=price_per_hour,
    )


@contextmanager
def keep(
    store: Store, head: RunHead, warn: Callable[[str], object] = lambda sentence: None
) -> Iterator[Callable[[Event], None]]:
    """Keep the ledger of a run while the block lasts; yields what to call with each event, which returns at once.

    The head is written before, and raises StorageError if it cannot be. Later failures do not end a run: `warn` is
    called with the first.
    """
    store.put_bytes(head_key(head.id), head.model_dump_json(indent=1).encode(), create_only=True)
    keeper = _Keeper(store, head, warn)
    keeper.write()  # from here on it lives, for those who tidy up
    keeper.thread.start()
    try:
        with _stoppable():
            yield keeper.take
    except BaseException as error:
        keeper.end("interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed", str(error))
        raise
    keeper.end("done")


@contextmanager
def _stoppable() -> Iterator[None]:
    """STOP raises KeyboardInterrupt, also where SIGINT is ignored, as under nohup, or blocked, as in a job of Ray."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which has no signals
        return
    before = signal.signal(STOP, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(STOP, before)


class _Keeper:
    def __init__(self, store: Store, head: RunHead, warn: Callable[[str], object]):
        self.store, self.head, self.warn = store, head, warn
        planned = (stage for stage in head.stages if stage.plan != "not needed")
        self.kept = StatusOf({s.name: "cached" if s.plan == "cached" else "waiting" for s in planned})
        self.thread = threading.Thread(target=self._write_on, name="run ledger", daemon=True)
        self._lines: list[LogLine] = []
        self._dropped = self._chunks = 0
        self._lock, self._soon, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._warned = self._stopping = False

    def take(self, event: Event) -> None:
        now = time.time()
        with self._lock:
            soon = self.kept.update(event, now)
            if event["kind"] in ("log", "warning"):
                self._log(event.get("stage", ""), event.get("rank"), event["message"], now)
            elif event["kind"] == "stage" and soon:
                seconds = "" if event["seconds"] is None else f" after {event['seconds']:.1f} s"
                self._log(event["name"], None, event["state"] + seconds, now)
        if soon:
            self._soon.set()

    def end(self, state: str, error: str = "") -> None:
        self._ended.set()
        self._soon.set()
        self.thread.join()
        with self._lock:
            self.kept.status = self.kept.status.model_copy(update={"state": state, "error": error})
            self._log("", None, f"the run ended: {state} {error}".rstrip(), time.time())
        self.write()

    def _log(self, stage: str, rank: int | None, message: str, at: float) -> None:
        line = LogLine(at=at, stage=stage, rank=rank, message=message)
        self.kept.status.lines = [*self.kept.status.lines, line][-NEWEST_LINES:]
        if len(self._lines) < PENDING_LINES:
            self._lines.append(line)
        else:
            self._dropped += 1

    def _write_on(self) -> None:
        while not self._ended.is_set():
            self._heed()
            if self._soon.wait(WRITE_EVERY_S):
                self._ended.wait(SOON_S)
                self._soon.clear()
            self.write()

    def _heed(self) -> None:
        """End the run, as Ctrl-C would, if somebody asked for it."""
        with suppress(StorageError):
            if not self._stopping and self.store.exists(stop_key(self.head.id)):
                self._stopping = True
                self.warn(f"somebody asked run {self.head.id} to stop")
                _thread.interrupt_main(STOP)  # nothing is sent, so nothing can be blocked

    def write(self) -> None:
        with self._lock:
            self.kept.status.updated_at = time.time()
            status, lines, self._lines = self.kept.status.model_dump_json(), self._lines, []
            if self._dropped:
                told = f"{self._dropped} lines were left out: there were too many at once"
                lines.append(LogLine(at=time.time(), stage="", rank=None, message=told))
                self._dropped = 0
        try:
            if lines:
                text = "\n".join(line.model_dump_json() for line in lines)
                self.store.put_bytes(log_key(self.head.id, self._chunks), text.encode())
                self._chunks += 1
                lines = []
            self.store.put_bytes(status_key(self.head.id), status.encode())
        except StorageError as error:
            with self._lock:
                self._lines = [*lines, *self._lines][:PENDING_LINES]
            if not self._warned:
                self._warned = True
                self.warn(f"watchers will not see this run as it is: {error}")
