"""`orch ls`, `orch show` and `orch logs`: the runs of a store, from their ledger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DEFAULT_STORE, Json, Run, Store, open_artifacts
from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from orchestrator.monitor.runs import RunHead, Status

SHOWN = 20


def ls(
    everything: Annotated[bool, typer.Option("--all", help=f"All of them, not the newest {SHOWN}.")] = False,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """List the runs of the store, the newest first."""
    from orchestrator.monitor.runs import Runs

    printer, runs, now = Printer(json), Runs(open_artifacts(store).store), time.time()
    known = runs.newest(None if everything else SHOWN)
    columns = ("run", "state", "stage", "progress", "started", "host", "what")
    rows = [_row(head, status, now) for head, status in known]
    printer.table(columns[:5], [_short(row) for row in rows])
    if len(known) == SHOWN and not everything:
        printer.note(f"the newest {SHOWN}; --all lists all")
    printer.facts({"runs": [dict(zip(columns, row, strict=True)) for row in rows]})


def show(run: Run = None, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Say what a run was asked for, how far it is, and which records its numbers come from."""
    from orchestrator.artifacts.artifacts import ARTIFACTS
    from orchestrator.cli.run_view import duration
    from orchestrator.monitor.runs import Runs

    printer, runs, now = Printer(json), Runs(open_artifacts(store).store), time.time()
    head = runs.find(run)
    status = runs.status(head.id)
    price = head.cost(status, now)
    facts = {
        "run": head.id,
        "state": status.seen(now) + (f": {status.error}" if status.error else ""),
        "what": head.description,
        "command": head.command,
        "started": when(head.started_at),
        "ran for": duration(head.seconds(status, now)),
        "cost": None if price is None else f"{price:.2f} at {head.price_per_hour:g} an hour",
        "driver": f"{head.host}, Ray at {head.address}" + (f", job {head.job}" if head.job else ""),
        "code": head.code_version,
        "workers": "; ".join(f"rank {w.rank}: {w.device} of {w.host}, pid {w.pid}" for w in status.workers),
    }
    for name, value in facts.items():
        if value:
            printer.note(f"{name:8} {value}")
    stages = [
        (s.name, status.stages[s.name].state, status.stages[s.name].seconds, s.fingerprint)
        for s in head.stages
        if s.name in status.stages
    ]
    columns = ("stage", "state", "seconds", "fingerprint")
    printer.table(columns, stages)
    printer.note(f"records  {runs.store.url}/{ARTIFACTS}/<stage>/<fingerprint>/record.json")
    printer.facts({"head": head, "status": status, "seen": status.seen(now)})


def stop(
    run: Annotated[str, typer.Argument(help="The id of a run, or its beginning; `orch ls` lists them.")],
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Ask a run to end, wherever it runs; what it has done is kept, and the same command resumes it."""
    from compgan_core.errors import ConfigurationError
    from orchestrator.monitor.runs import Runs

    printer, runs = Printer(json), Runs(open_artifacts(store).store)
    head = runs.find(run)
    state = runs.status(head.id).seen(time.time())
    if state != "running":
        raise ConfigurationError(f"run {head.id} does not run: it is {state}; `orch ls` lists those that do")
    runs.ask_to_stop(head.id)
    printer.note(f"run {head.id} was asked to stop, and will within seconds")
    printer.facts({"run": head.id})


def logs(
    run: Run = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Lines of this stage only, e.g. compgan.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=0, help="Lines of this worker only.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Print the log of a run: what its driver and workers told, oldest first. Ctrl-C disturbs nothing."""
    from orchestrator.monitor.runs import Runs

    printer, runs = Printer(), Runs(open_artifacts(store).store)
    head = runs.find(run)
    for line in runs.log(head.id, follow):
        if (stage in (None, line.stage, line.stage.split(" ")[0])) and rank in (None, line.rank):
            who = "driver" if line.rank is None else f"rank {line.rank}"
            text = f"{when(line.at)} {who:7} {line.stage or '-':20} {line.message}"
            printer.note(line.model_dump_json() if json else text)


def when(seconds: float) -> str:
    """A time as people of this machine write it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _short(row: tuple[object, ...]) -> tuple[object, ...]:
    """What 80 columns have room for: the step is what `orch watch` shows, and the id has the task."""
    run, state, stage, progress, started, *_ = row
    return run, state, stage if state == "running" else "", str(progress).split(" ")[0], str(started)[5:16]


def _row(head: RunHead, status: Status, now: float) -> tuple[object, ...]:
    stage = status.stages.get(status.current)
    ended = sum(s.state in ("done", "cached") for s in status.stages.values())
    part = f", step {stage.step}/{stage.steps}" if stage and stage.state == "running" and stage.steps else ""
    progress = f"{ended}/{len(status.stages)} stages{part}"
    return head.id, status.seen(now), status.current, progress, when(head.started_at), head.host, head.description
