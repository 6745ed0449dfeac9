from __future__ import annotations

import io

from rich.console import Console

from orchestrator.cli.progress import PlainLines, Run, watch


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stage(name: str, state: str, seconds: float | None = None) -> dict:
    return {"kind": "stage", "name": name, "fingerprint": "3f2a91c04be7", "state": state, "seconds": seconds}


def progress(step: int, **metrics: float) -> dict:
    return {"kind": "progress", "step": step, "steps": 1000, "metrics": metrics}


def shown(run: Run, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(run)
    return console.file.getvalue()


def test_time_left_counts_only_the_steps_of_this_run() -> None:
    clock = Clock()
    run = Run(clock=clock)
    run.update(stage("compgan", "running"))
    run.update(progress(500))  # resumed here
    assert run.stages["compgan"].seconds_left(clock()) is None
    clock.now = 10.0
    run.update(progress(600))
    assert run.stages["compgan"].seconds_left(10.0) == 40.0
    assert run.stages["compgan"].seconds_left(15.0) == 35.0


def test_the_view_shows_expected_stages_before_they_start_and_fits_80_columns() -> None:
    clock = Clock()
    run = Run(["pretrain", "compgan", "evaluate"], clock)
    run.update(stage("pretrain", "cached", 71.0))
    run.update(stage("compgan", "running"))
    run.update(progress(0, images_per_s=312.4, loss_identity=0.25))
    clock.now = 60.0
    run.update(progress(250, images_per_s=312.4, loss_identity=0.25))
    lines = shown(run).splitlines()
    assert lines[0].split() == ["cached", "pretrain", "3f2a91c0", "1:11"]
    assert "step 250/1000, 312 images/s, 3:00 left" in lines[2]
    assert lines[3].strip() == "loss_identity 0.25"
    assert lines[4].split() == ["waiting", "evaluate"]
    assert max(map(len, lines)) <= 80


def test_without_a_terminal_progress_is_one_line_in_15_seconds() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), width=200)
    on_event = PlainLines(Run(clock=clock), console)
    on_event(stage("compgan", "running"))
    for second in range(60):
        clock.now = float(second)
        on_event(progress(second))
    on_event(stage("compgan", "done", 60.0))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "compgan: running 3f2a91c0"
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"compgan: step {n}/1000" for n in (15, 30, 45)]
    assert lines[-1] == "compgan: done 3f2a91c0 1:00"


def test_watch_writes_no_control_codes_into_a_file() -> None:
    console = Console(file=io.StringIO())
    with watch(console) as on_event:
        on_event({"kind": "log", "message": "a worker [died]"})
        on_event(stage("split", "done", 0.5))
    assert console.file.getvalue() == "a worker [died]\nsplit: done 3f2a91c0 0.5 s\n"


def test_what_a_second_worker_repeats_is_not_shown_again() -> None:
    console = Console(file=io.StringIO())
    with watch(console) as on_event:
        for event in (stage("split", "running"), stage("split", "done", 0.5)):
            on_event(event)
            on_event(event)
        on_event(stage("split", "running"))
    assert len(console.file.getvalue().splitlines()) == 2


def test_a_worker_that_was_lost_starts_the_time_left_anew() -> None:
    clock = Clock()
    run = Run(clock=clock)
    run.update(stage("compgan", "running"))
    for clock.now, step in ((0.0, 0), (1.0, 500), (100.0, 400), (110.0, 500)):
        run.update(progress(step))
    assert run.stages["compgan"].seconds_left(110.0) == 50.0


def test_a_long_run_shows_the_stages_around_the_present_one_in_24_lines() -> None:
    names = [f"stage {n:02d}" for n in range(40)]
    run = Run(names)
    for n in range(20):
        run.update(stage(names[n], "cached", 1.0))
    run.update(stage(names[20], "running"))
    run.update(progress(1, **{f"loss_{n}": 1.0 for n in range(9)}))
    view = shown(run)
    assert len(view.splitlines()) <= 24
    assert view.startswith("13 stages before") and view.endswith("13 more\n") and "running  stage 20" in view
