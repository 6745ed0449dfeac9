"""A command that runs as a job of a cluster: submitted, followed, left alone, and found again by the same command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from compgan_core.errors import ConfigurationError
from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from orchestrator.artifacts.store import Store
    from orchestrator.runtime.submit import JobServer

OURS = ("--address", "--store", "--report", "--json")
"""Options that mean something else there: where the command goes, and what it leaves on this machine."""
SHOWN_OF_FAILED = 20


def is_job_server(address: str | None) -> bool:
    """Whether an address is that of a dashboard, whose job server runs what it is given."""
    return bool(address) and str(address).startswith(("http://", "https://"))


def run_there(printer: Printer, address: str, store: Store, given_store: str, *, live: bool = False) -> dict[str, Any]:
    """Run this very command on the cluster, and return what its --json told. Ctrl-C leaves it running.

    live: it keeps a ledger in the store, which a terminal can show. Raises typer.Exit with the job's exit code.
    """
    from orchestrator.runtime.submit import JobServer

    if "://" not in given_store and not Path(given_store).is_absolute():
        raise ConfigurationError(
            f"--store {given_store} is a directory of this machine: name a bucket, or the absolute path of a directory "
            "that the cluster shares"
        )
    server = JobServer(address)
    told: list[str] = []
    job = ""
    try:
        job, new = server.submit([*arguments_there(sys.argv[1:]), "--store", store.url, "--json"])
        printer.note(f"job {job} at {server.address}: " + ("submitted" if new else "attached, as it is under way"))
        quiet = live and printer.console.is_terminal
        if quiet:
            _watch(printer, server, job, store)

        def on_line(line: str) -> None:
            told.append(line)
            if not quiet and not line.startswith("{"):
                printer.note(line)

        code = server.follow(job, on_line)
    except KeyboardInterrupt:
        if not job:
            printer.note("interrupted while the job was being submitted: if it was, the same command attaches to it")
            raise typer.Exit(130) from None
        printer.note(
            f"detached; job {job} goes on. The same command attaches to it again; "
            f"`ray job stop --address {server.address} {job}` ends it" + (", and so does `orch stop`" if live else "")
        )
        raise typer.Exit(130) from None
    if code:
        for line in told[-SHOWN_OF_FAILED:] if quiet else ():
            printer.note(line)
        printer.note(f"job {job} failed; its whole log: ray job logs --address {server.address} {job}")
        raise typer.Exit(code)
    return next(json.loads(line) for line in reversed(told) if line.startswith("{"))


def arguments_there(arguments: Sequence[str]) -> list[str]:
    """What to run there: this command without the options that are for this machine."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name not in OURS:
            kept.append(argument)
        elif not equals and name != "--json":
            next(rest, None)
    return kept


def _watch(printer: Printer, server: JobServer, job: str, store: Store) -> None:
    """Show a job as `orch watch` does, as soon as it has a ledger; return when it has ended."""
    import time

    from orchestrator.cli.watch import live
    from orchestrator.monitor.runs import Runs

    runs = Runs(store)
    while not server.ended(job):
        head = runs.of_job(job)
        if head:
            return live(printer.console, runs, head, every=2.0)
        time.sleep(1)
