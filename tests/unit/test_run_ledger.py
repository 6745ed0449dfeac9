"""The ledger that watchers read: what it says of a run, while it runs, after it ended, and when it was killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import run_ledger as told

from compgan_core.errors import ConfigurationError, StorageError
from orchestrator.artifacts.store import DirectoryStore, open_store
from orchestrator.monitor.keeper import keep
from orchestrator.monitor.runs import HISTORY_ROWS, LOST_AFTER_S, Runs, StatusOf, head_key, status_key


@pytest.fixture
def here(tmp_path: Path) -> DirectoryStore:
    return open_store(tmp_path / "store")  # type: ignore[return-value]


def test_a_run_leaves_what_was_asked_for_how_it_went_and_its_log(here: DirectoryStore) -> None:
    head = told.head(price_per_hour=3600.0)
    with keep(here, head) as tell:
        tell(told.worker(0))
        tell(told.stage("pretrain", "running"))
        tell(told.progress(500, total=0.5))
        tell(told.log("continuing from the checkpoint at step 499", "pretrain", 1))
        tell(told.checkpoint(600))
        tell(told.stage("pretrain", "done", 1.5))
    runs = Runs(here)
    assert runs.find(None) == runs.find("2026") == head
    status = runs.status(head.id)
    assert (status.state, status.stages["pretrain"].state, status.stages["faces"].state) == ("done", "done", "cached")
    assert status.checkpoint and (status.checkpoint.step, status.checkpoint.size_bytes) == (600, 4_100_000)
    assert status.history == [{"step": 500, "total": 0.5}]
    assert [w.pid for w in status.workers] == [100]
    lines = [(line.stage, line.rank, line.message) for line in runs.log(head.id)]
    assert lines == [
        ("pretrain", None, "running"),
        ("pretrain", 1, "continuing from the checkpoint at step 499"),
        ("pretrain", None, "done after 1.5 s"),
        ("", None, "the run ended: done"),
    ]
    assert head.cost(status, 1e12) == pytest.approx(head.seconds(status, 1e12))  # and it costs no more once it ended


@pytest.mark.parametrize(
    ("error", "state"), [(StorageError("the bucket is gone"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_why_a_run_ended_is_kept(here: DirectoryStore, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), keep(here, told.head()):
        raise error
    status = Runs(here).status(told.head().id)
    assert (status.state, status.error) == (state, str(error))


def test_a_killed_run_is_lost_once_its_heart_has_stopped(here: DirectoryStore) -> None:
    with keep(here, told.head()):
        while not here.exists(status_key(told.head().id)):
            time.sleep(0.01)
        alive = Runs(here).status(told.head().id)
    assert alive.seen(alive.updated_at + LOST_AFTER_S - 1) == "running"
    assert alive.seen(alive.updated_at + LOST_AFTER_S + 1) == "lost"


def test_the_history_stays_small_and_keeps_both_ends() -> None:
    kept = StatusOf(dict.fromkeys(told.NAMES, "waiting"))
    kept.update(told.stage("compgan", "running"), 0.0)
    for step in range(10_000):
        kept.update(told.progress(step, 10_000, total=1.0), float(step))
    steps = [row["step"] for row in kept.status.history]
    assert steps[0] == 0 and steps[-1] > 9_800 and len(steps) <= HISTORY_ROWS
    assert len(kept.status.model_dump_json()) < 20_000


def test_after_a_restart_the_history_has_each_step_once_and_the_time_left_its_own_speed() -> None:
    kept = StatusOf(dict.fromkeys(told.NAMES, "waiting"))
    kept.update(told.stage("compgan", "running"), 0.0)
    for step, now in ((100, 0.0), (200, 10.0), (300, 20.0), (150, 60.0), (250, 65.0)):
        kept.update(told.progress(step), now)
    assert [row["step"] for row in kept.status.history] == [100, 150, 250]
    assert kept.status.stages["compgan"].seconds_left(65.0) == 37.5  # 750 steps at 20 a second


def test_a_store_that_fails_does_not_end_the_run_and_is_told_once(here: DirectoryStore) -> None:
    said: list[str] = []
    with keep(here, told.head(), said.append) as tell:
        (here.root / "runs").rename(here.root / "away")
        (here.root / "runs").write_text("a file where a directory was")
        tell(told.stage("pretrain", "running"))
        time.sleep(1.5)
        tell(told.stage("pretrain", "done", 0.1))
    (sentence,) = said
    assert sentence.startswith("watchers will not see this run as it is: cannot write runs/")


def test_lines_that_could_not_be_written_are_written_later(here: DirectoryStore) -> None:
    with keep(here, told.head()) as tell:
        (here.root / "runs").rename(here.root / "away")
        (here.root / "runs").write_text("")
        tell(told.log("worth keeping"))
        tell(told.stage("pretrain", "running"))
        time.sleep(1.0)
        (here.root / "runs").unlink()
        (here.root / "away").rename(here.root / "runs")
    assert "worth keeping" in [line.message for line in Runs(here).log(told.head().id)]


def test_the_newest_run_is_meant_unless_one_is_named(here: DirectoryStore) -> None:
    for id_ in ("20260101-000000-er-fe-aaaa", "20260102-000000-er-ss-bbbb", "20260102-000001-er-ss-cccc"):
        with keep(here, told.head(id_)):
            pass
    runs = Runs(here)
    assert [head.id[-4:] for head, _ in runs.newest(2)] == ["cccc", "bbbb"]
    assert (runs.find(None).id[-4:], runs.find("20260101").id[-4:]) == ("cccc", "aaaa")
    with pytest.raises(ConfigurationError, match="no run '1999'; allowed: "):
        runs.find("1999")


def test_without_runs_or_with_a_damaged_one_a_sentence_says_so(here: DirectoryStore) -> None:
    with pytest.raises(ConfigurationError, match="has none yet"):
        Runs(here).find(None)
    here.put_bytes(head_key("2026"), b"{}")
    with pytest.raises(StorageError, match="head.json in .* is damaged .*no result depends on it"):
        Runs(here).find(None)
