"""Commands as jobs of a cluster, through its dashboard: no port of Ray but that one has to be reached.

A job is told this code and the command, nothing else. Keys of the bucket are the cluster's own: whatever a job is
given can be read in the cluster's list of jobs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compgan_core.errors import CapacityError, CompganError, ConfigurationError
from orchestrator.artifacts.provenance import CODE_VERSION, code_version

PACKAGES = ("compgan_core", "orchestrator")
ROOT = Path(__file__).parents[2]  # of the checkout or of site-packages
START_S = 90.0  # the agent that starts jobs comes up some time after the dashboard
LOST_S = 300.0
TOKEN = Path("~/.ray/auth_token")
SECRET_IN_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")
STOPPED, INTERNAL = 130, CompganError.exit_code


class JobServer:
    """The job server behind a dashboard, http(s)://host:port. Raises CapacityError if nobody answers there."""

    def __init__(self, address: str):
        if "RAY_AUTH_MODE" not in os.environ and TOKEN.expanduser().exists():
            os.environ["RAY_AUTH_MODE"] = "token"  # Ray's client has one, and would not show it
        from ray.job_submission import JobSubmissionClient

        talkative = "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"
        for name in (*talkative, "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of each upload and connection
        self.address = address.rstrip("/")
        with self._errors():
            self._client = JobSubmissionClient(self.address)

    def jobs(self) -> list[Any]:
        with self._errors():
            return self._client.list_jobs()

    def submit(self, arguments: Sequence[str]) -> tuple[str, bool]:
        """Run `orch` with these arguments there; its id, and whether it is new: if it is under way already, that one.

        Raises ConfigurationError if an argument holds a secret, as everybody with the token could read it.
        """
        if any(SECRET_IN_URL.search(argument) for argument in arguments):
            raise ConfigurationError(
                "a URL of this command holds a password, which the cluster's list of jobs would show: "
                "put it into the environment of the cluster"
            )
        prefix = f"orch-{hashlib.sha256(json.dumps([*arguments]).encode()).hexdigest()[:12]}-"
        deadline = time.monotonic() + START_S
        while True:
            mine = [job for job in self.jobs() if (job.submission_id or "").startswith(prefix)]
            for job in mine:
                if not job.status.is_terminal():
                    return job.submission_id, False
            # Of two who submit at once, the second finds the name taken, and then the job of the first.
            name = f"{prefix}{1 + max((int(job.submission_id.rpartition('-')[2]) for job in mine), default=0)}"
            try:
                return self._submit(name, arguments), True
            except RuntimeError as error:
                waits = "already exists" in str(error) or "No available agent" in str(error)
                if not waits or time.monotonic() > deadline:
                    raise CapacityError(f"{self.address} does not take the job: {_reason(error)}") from error
            time.sleep(1)

    def ended(self, job: str) -> bool:
        with self._errors():
            return bool(self._client.get_job_status(job).is_terminal())

    def follow(self, job: str, on_line: Callable[[str], object]) -> int:
        """Pass on each line of a job's log, from its beginning, until it ends; its exit code.

        Raises CapacityError if the cluster stays away, or has no such job any more.
        """
        log = _Log(on_line)
        answered = time.monotonic()
        while True:
            try:
                asyncio.run(self._tail(job, log))
                info = self._client.get_job_info(job)
                answered = time.monotonic()
                if info.status.is_terminal():
                    log.rest(self._client.get_job_logs(job))
                    return _exit_code(info)
            except _failures() as error:
                if "does not exist" in str(error):
                    raise CapacityError(
                        f"{self.address} has no job {job} any more, as its head was started again: "
                        "give the command again"
                    ) from error
                if time.monotonic() - answered > LOST_S:
                    raise CapacityError(
                        f"{self.address} has not answered for {LOST_S:g} seconds ({_reason(error)}); if its cluster "
                        f"is well, job {job} goes on, and the same command attaches to it"
                    ) from error
            time.sleep(1)

    def _submit(self, name: str, arguments: Sequence[str]) -> str:
        environment = {CODE_VERSION: code_version(), "RAY_JOB_STOP_WAIT_TIME_S": "30"}  # to end in good order
        with tempfile.TemporaryDirectory(prefix="compgan-") as directory:
            for package in PACKAGES:
                shutil.copytree(ROOT / package, Path(directory) / package, ignore=shutil.ignore_patterns("__pycache__"))
            self._client.submit_job(
                entrypoint=shlex.join(["python", "-m", "orchestrator.cli", *arguments]),
                submission_id=name,
                runtime_env={"working_dir": directory, "env_vars": environment},
            )
        return name

    async def _tail(self, job: str, log: _Log) -> None:
        skip = log.received
        async for text in self._client.tail_job_logs(job):
            log.take(text[skip:])
            skip = max(0, skip - len(text))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ConfigurationError(
                f"{self.address} wants its cluster's token: put it into {TOKEN} (mode 0600), or into RAY_AUTH_TOKEN, "
                "and set RAY_AUTH_MODE=token"
            ) from error
        except _failures() as error:
            raise CapacityError(f"no Ray dashboard answers at {self.address}: {_reason(error)}") from error


class _Log:
    """Text that comes in pieces, passed on by lines."""

    def __init__(self, on_line: Callable[[str], object]):
        self._on_line = on_line
        self._partial = ""
        self.received = 0

    def take(self, text: str) -> None:
        self.received += len(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._on_line(line)

    def rest(self, whole: str) -> None:
        """What has not come yet of the whole log, and the last line, which nothing may end."""
        self.take(whole[self.received :])
        if self._partial:
            self.take("\n")


def _failures() -> tuple[type[Exception], ...]:
    import aiohttp
    import requests

    return (ConnectionError, RuntimeError, TimeoutError, aiohttp.ClientError, requests.RequestException)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _exit_code(info: Any) -> int:
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        return STOPPED
    return info.driver_exit_code or INTERNAL
