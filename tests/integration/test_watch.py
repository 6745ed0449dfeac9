"""`orch ls`, `show`, `logs` and `watch` on a run of another process's ledger; on a real terminal, and into a pipe."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_study as small
from terminal import Terminal

sys.path.append(str(Path(__file__).parents[1] / "unit"))
import run_ledger as told

from orchestrator.artifacts.store import open_store
from orchestrator.monitor.keeper import keep
from orchestrator.monitor.runs import Runs

pytestmark = pytest.mark.integration


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def running(url: str) -> Iterator[Callable[[dict], None]]:
    """A run in the middle of its Comp-GAN training; yields what tells its ledger more."""
    with keep(open_store(url), told.head()) as tell:
        for event in (
            told.worker(0),
            told.worker(1),
            told.stage("pretrain", "running"),
            told.log("hello", "pretrain", 1),
        ):
            tell(event)
        for event in (told.stage("pretrain", "done", 700.2), told.stage("compgan", "running"), told.checkpoint(400)):
            tell(event)
        for step in range(0, 420, 20):
            pace = {"images_per_s": 312.4, "lr_pose": 2e-4, "seconds_data": 0.01, "seconds_backward": 0.03}
            tell(told.progress(step, **pace, pose_pixel=0.5 / (1 + step), discriminator=1.3))
        deadline = time.monotonic() + 10
        while Runs(open_store(url)).status(told.head().id).current != "compgan" and time.monotonic() < deadline:
            time.sleep(0.05)
        yield tell


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60)])
def test_the_view_fits_the_terminal_and_follows_the_run_until_a_key_detaches_it(
    running: Callable[[dict], None], url: str, columns: int, lines: int
) -> None:
    terminal = Terminal(columns, lines, str(small.ORCH), "watch", "--store", url, "--every", "0.3")
    screen = terminal.until("step 400/1000")
    assert re.fullmatch(rf"{told.head().id}  running  [\d.]+ s", screen[0])
    assert screen[1] == told.head().description
    assert screen[2].startswith("2 workers on 1 machine (cpu) · checkpoint ")
    assert any(re.match(r"done +pretrain +11:40", line) for line in screen)
    assert any(re.match(r"running +compgan", line) for line in screen)
    assert any("step 400/1000, 312 images/s" in line for line in screen)
    assert any("a step 40 ms: backward 75%, data 25%" in line for line in screen)
    assert not any("lr_pose" in line for line in screen)
    (course,) = (line for line in screen if "pose_pixel" in line)
    assert course.endswith("█▁" + "▁" * 19)
    beside = any("pose_pixel" in line and re.match("(cached|done|waiting)", line) for line in screen)
    assert beside == (columns == 200)
    assert "q or Ctrl-C detaches; the run goes on" in screen
    running(told.progress(777, images_per_s=300.0))
    running(told.stage("judge", "running"))
    terminal.until(r"running +judge")
    terminal.press("q")
    terminal.until(f"detached; run {told.head().id} goes on")
    assert terminal.process.wait(10) == 0


def test_into_a_pipe_it_prints_plain_lines_until_the_run_ends(url: str) -> None:
    with keep(open_store(url), told.head()) as tell:
        tell(told.stage("compgan", "running"))
        tell(told.progress(400, images_per_s=312.4, total=0.25))
        command = [small.ORCH, "watch", "--store", url, "--every", "0.2"]
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert watcher.stdout is not None
        seen = [next(watcher.stdout) for _ in range(4)]
        tell(told.stage("compgan", "done", 60.0))
    rest = watcher.communicate(timeout=20)[0].splitlines()
    assert [line.rstrip() for line in seen] == [
        "faces: cached",
        "split: cached",
        "compgan: running",
        "compgan: step 400/1000, 312 images/s, total 0.25",
    ]
    assert rest == ["compgan: done 1:00", f"run {told.head().id}: done"]


def test_killing_watchers_leaves_no_trace_in_the_store(running: Callable[[dict], None], url: str) -> None:
    terminal = Terminal(80, 24, str(small.ORCH), "watch", "--store", url, "--every", "0.3")
    terminal.until("step 400/1000")
    before = set(open_store(url).keys())
    terminal.process.send_signal(signal.SIGKILL)
    terminal.process.wait(10)
    assert {key for key in open_store(url).keys() if "/log/" not in key} <= before
    running(told.stage("judge", "running"))  # and the run can still be told of, and watched
    Terminal(80, 24, str(small.ORCH), "watch", "--store", url, "--every", "0.3").until(r"running +judge")


def test_ls_show_and_logs_say_what_the_ledger_holds(running: Callable[[dict], None], url: str) -> None:
    (row,) = small.facts(small.orch("ls", "--store", url, "--json"))["runs"]
    assert (row["run"], row["state"], row["stage"]) == (told.head().id, "running", "compgan")
    assert row["progress"] == f"3/{len(told.NAMES)} stages, step 400/1000"
    shown = small.orch("show", "2026", "--store", url)
    assert "command  orch train --data faces --task ER-FE" in shown.stdout
    assert re.search(r"pretrain +done +700.2 +0+2", shown.stdout)
    lines = small.orch("logs", "--store", url, "--stage", "pretrain", "--rank", "1", "--json").stdout.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["hello"]
    assert small.orch("logs", "--store", url, "--stage", "compgan", "--rank", "1").stdout == ""
    assert small.orch("watch", "nosuch", "--store", url).returncode == 2


@pytest.mark.parametrize("sigint", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_a_run_that_is_asked_to_stop_ends_as_if_interrupted(
    url: str, sigint: Any, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, sigint)))
    store = open_store(url)
    with pytest.raises(KeyboardInterrupt), keep(store, told.head()):
        assert small.orch("stop", told.head().id, "--store", url).returncode == 0
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.1)  # as a driver does, which looks for events
    assert Runs(store).status(told.head().id).state == "interrupted"
    again = small.orch("stop", told.head().id, "--store", url)
    assert again.returncode == 2 and "does not run: it is interrupted" in again.stderr
