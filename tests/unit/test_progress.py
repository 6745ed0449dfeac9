"""A run on a terminal, and as plain lines, from its events."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.cli.progress import PlainLines, watch
from orchestrator.cli.run_view import RunView
from orchestrator.monitor.runs import StatusOf


def stage(name: str, state: str, seconds: float | None = None) -> dict:
    return {"kind": "stage", "name": name, "fingerprint": "3f2a91c04be7", "state": state, "seconds": seconds}


def progress(step: int, **metrics: float) -> dict:
    return {"kind": "progress", "step": step, "steps": 1000, "metrics": metrics}


def run_of(expected: tuple[str, ...], *events: tuple[float, dict]) -> StatusOf:
    run = StatusOf(dict.fromkeys(expected, "waiting"))
    for now, event in events:
        run.update(event, now)
    return run


def shown(run: StatusOf, now: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(RunView(None, run.status, now))
    return console.file.getvalue()


def test_time_left_counts_only_the_steps_of_this_run() -> None:
    run = run_of((), (0.0, stage("compgan", "running")), (0.0, progress(500)))  # resumed here
    compgan = run.status.stages["compgan"]
    assert compgan.seconds_left(0.0) is None
    run.update(progress(600), 10.0)
    assert compgan.seconds_left(10.0) == 40.0
    assert compgan.seconds_left(15.0) == 35.0


def test_a_worker_that_was_lost_starts_the_time_left_anew() -> None:
    reports = ((0.0, 0), (1.0, 500), (100.0, 400), (110.0, 500))
    run = run_of((), (0.0, stage("compgan", "running")), *((now, progress(step)) for now, step in reports))
    assert run.status.stages["compgan"].seconds_left(110.0) == 50.0


def test_the_view_shows_expected_stages_before_they_start_and_fits_80_columns() -> None:
    metrics = {"images_per_s": 312.4, "loss_identity": 0.25, "seconds_data": 0.01, "seconds_forward": 0.03}
    run = run_of(
        ("pretrain", "compgan", "evaluate"),
        (0.0, stage("pretrain", "cached", 71.0)),
        (0.0, stage("compgan", "running")),
        (0.0, progress(0, **metrics)),
        (60.0, progress(250, **metrics)),
    )
    lines = shown(run, 60.0).splitlines()
    assert lines[0].split() == ["cached", "pretrain", "1:11"]
    assert "step 250/1000, 312 images/s, 3:00 left" in lines[2]
    assert lines[3].split() == ["waiting", "evaluate"]
    assert lines[4] == "a step 40 ms: forward 75%, data 25%"
    assert lines[5].split()[:2] == ["loss_identity", "0.25"]
    assert max(map(len, lines)) <= 80


def test_a_long_run_shows_the_stages_around_the_present_one_in_24_lines() -> None:
    names = tuple(f"stage {n:02d}" for n in range(40))
    run = run_of(names, *((0.0, stage(names[n], "cached", 1.0)) for n in range(20)), (0.0, stage(names[20], "running")))
    run.update(progress(1, **{f"loss_{n}": 1.0 for n in range(9)}), 0.0)
    view = shown(run)
    assert len(view.splitlines()) <= 24
    assert "stages before" in view and "more" in view and "running  stage 20" in view


def test_without_a_terminal_progress_is_one_line_in_15_seconds() -> None:
    console, run = Console(file=io.StringIO(), width=200), run_of((), (0.0, stage("compgan", "running")))
    lines = PlainLines(console)
    for second in range(60):
        run.update(progress(second), float(second))
        lines(run.status, float(second))
    run.update(stage("compgan", "done", 60.0), 60.0)
    lines(run.status, 60.0)
    written = console.file.getvalue().splitlines()
    assert written[0] == "compgan: running"
    assert [line.split(",")[0] for line in written[1:-1]] == [f"compgan: step {n}/1000" for n in (0, 15, 30, 45)]
    assert written[-1] == "compgan: done 1:00"


def test_watch_writes_no_control_codes_into_a_file() -> None:
    console = Console(file=io.StringIO())
    with watch(console) as on_event:
        on_event({"kind": "log", "message": "a worker [died]"})
        on_event(stage("split", "done", 0.5))
    assert console.file.getvalue() == "a worker [died]\nsplit: done 0.5 s\n"


def test_what_a_second_worker_repeats_is_not_shown_again() -> None:
    console = Console(file=io.StringIO())
    with watch(console) as on_event:
        for event in (stage("split", "running"), stage("split", "done", 0.5)):
            on_event(event)
            on_event(event)
        on_event(stage("split", "running"))
    assert len(console.file.getvalue().splitlines()) == 2
