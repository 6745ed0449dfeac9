"""`orch --address http://...` from a directory outside any checkout, against a cluster that was started by hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import small_study as small
from by_hand import free_ports
from terminal import Terminal

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.cli.remote import arguments_there
from orchestrator.housekeeping import find_litter, remove
from orchestrator.monitor.runs import RunHead, Runs
from orchestrator.runtime.submit import PACKAGES, ROOT, JobServer
from orchestrator.store_server import StoreServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(400)]
PLAIN = {"variants": '["plain"]'}
LONGER = {"compgan.schedule.steps": "600"}  # to be left, watched and attached to before it ends
MARK = "this code came with the job"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Our packages as somewhere installed, in an environment; whoever runs them says so."""
    site = tmp_path_factory.mktemp("site")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    entry = site / "orchestrator/cli/__main__.py"
    entry.write_text(f"print({MARK!r})\n" + entry.read_text().replace("main()", "\nif __name__ == '__main__': main()"))
    return {"PYTHONPATH": str(site)}


@pytest.fixture
def store_url(s3_url: str, bucket: str, tmp_path: Path) -> str:
    small.import_faces(s3_url, tmp_path / "import")
    return s3_url


@pytest.fixture
def orch(installed: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator.cli", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | installed, text=True, **pipes)

    return start


def under_way(url: str, client: subprocess.Popen[str]) -> RunHead:
    """The run of the store, once one of its stages runs."""
    runs = Runs(open_store(url))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert client.poll() is None, client.communicate()
        for id_ in runs.ids():
            if runs.status(id_).current not in ("", "faces"):
                return runs.head(id_)
        time.sleep(0.2)
    raise AssertionError("no run has begun")


class Cleaner(threading.Thread):
    """Removes litter again and again, of whatever age, while a run goes on."""

    def __init__(self, artifacts: Artifacts):
        super().__init__(daemon=True)
        self.artifacts, self.looks = artifacts, 0
        self.failure: Exception | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            while not self._ended.wait(0.5):
                remove(self.artifacts.store, find_litter(self.artifacts, 0))
                self.looks += 1
        except Exception as error:
            self.failure = error

    def end(self) -> None:
        self._ended.set()
        self.join()


def detached(client: subprocess.Popen[str]) -> str:
    """What a client said that was interrupted."""
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=60)
    assert client.returncode == 130, out + err
    return out + err


def test_a_training_is_submitted_left_watched_and_finished_with_the_records_of_a_local_one(
    trained: dict,
    bucket: str,
    store_url: str,
    by_hand: str,
    s3: StoreServer,
    orch: Callable[..., subprocess.Popen[str]],
    installed: dict[str, str],
    tmp_path: Path,
) -> None:
    local = small.facts(small.orch("train", *small.options(bucket, **LONGER, **PLAIN), "--json"))
    options = small.options(store_url, **LONGER, **PLAIN)
    command = ["train", *options, "--checkpoint-every", "0.5", "--address", by_hand]
    client = orch(*command)
    run = under_way(store_url, client)
    said = detached(client)
    assert f"job {run.job} at {by_hand}: submitted" in said and MARK in said
    assert f"detached; job {run.job} goes on" in said

    server = JobServer(by_hand)
    (job,) = [job for job in server.jobs() if job.submission_id == run.job]
    told = f"{job}"
    assert not any(
        secret in told for secret in (s3.secret_key, s3.credentials.access_key, os.environ["RAY_AUTH_TOKEN"])
    )
    assert run.code_version == version("compgan-orchestrator")  # of the client, which has no checkout

    # What it has written, and is about to, nobody takes for litter, however young.
    artifacts = Artifacts(open_store(store_url), NodeCache(tmp_path / "gc"))
    cleaner = Cleaner(artifacts)
    cleaner.start()
    watcher = Terminal(100, 40, sys.executable, "-m", "orchestrator.cli", *command, env=installed)
    watcher.until(rf"(?s){run.id}  running.*(running|done) +(pretrain|classifier|compgan)", 60)
    watcher.press("q")
    watcher.until("detached; job", 20)
    assert watcher.process.wait(20) == 130
    assert not server.ended(run.job)

    again = orch(*command, "--json")
    out, err = again.communicate(timeout=200)
    cleaner.end()
    assert again.returncode == 0, err
    assert cleaner.looks > 3 and not cleaner.failure
    assert f"job {run.job} at {by_hand}: attached" in err
    done = small.facts(subprocess.CompletedProcess([], 0, out, err))
    assert out.replace(f"{MARK}\n", "").count("\n") == 1 and all(Path(picture).exists() for picture in done["pictures"])
    plan = small.facts(small.orch("plan", *options, "--json"))["stages"]
    assert {s["state"] for s in plan} == {"cached"}
    assert [s["fingerprint"] for s in plan] == [s["fingerprint"] for s in done["stages"]]
    assert done["metrics"] == local["metrics"]
    fingerprint = next(s["fingerprint"] for s in plan if s["name"] == "compgan")
    assert small.hashes(store_url, fingerprint) == small.hashes(bucket, fingerprint)

    refused = orch("train", *options, "--seed", "4", "--zero", "3", "--address", by_hand)
    out, err = refused.communicate(timeout=100)
    assert refused.returncode == 2 and "ZeRO stage 3 is not supported" in out + err  # the job's own end


def test_a_sweep_is_submitted_left_and_finished(
    trained: dict, bucket: str, by_hand: str, orch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    sets = {key: value for key, value in small.SETTINGS.items() if key != "synth.count"} | small.LONG
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    options += ["--data", "drawn", "--task", "ER-FE", "--preset", "tiny", "--shots", "1", "--seeds", "1"]
    command = ["sweep", *options, "--over", "synth.count=0,3", "--store", bucket, "--address", by_hand]
    client = orch(*command, "--report", str(tmp_path / "report"))
    deadline = time.monotonic() + 60
    server = JobServer(by_hand)

    def mine() -> list[str]:
        return [j.submission_id for j in server.jobs() if " sweep " in j.entrypoint and not j.status.is_terminal()]

    while not mine():
        assert time.monotonic() < deadline and client.poll() is None
        time.sleep(0.2)
    (job,) = mine()
    while "to run" not in server._client.get_job_logs(job):  # which its client then follows
        assert time.monotonic() < deadline and client.poll() is None
        time.sleep(0.2)
    assert f"detached; job {job} goes on" in detached(client)
    again = orch(*command, "--report", str(tmp_path / "report"), "--json")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert f"job {job} at {by_hand}: attached" in err
    done = small.facts(subprocess.CompletedProcess([], 0, out, err))
    assert len(done["leaderboard"]) == 2
    assert (tmp_path / "report" / done["sweep"] / "index.html").exists()


def test_a_run_ends_when_it_is_asked_to_from_any_machine_that_reaches_the_store(
    trained: dict, store_url: str, by_hand: str, orch: Callable[..., subprocess.Popen[str]]
) -> None:
    client = orch("train", *small.options(store_url, **small.LONG, **PLAIN), "--address", by_hand)
    run = under_way(store_url, client)
    assert small.orch("stop", run.id, "--store", store_url).returncode == 0
    out, err = client.communicate(timeout=60)
    assert client.returncode == 130, out + err
    assert Runs(open_store(store_url)).status(run.id).state == "interrupted"
    again = small.orch("stop", run.id, "--store", store_url)
    assert again.returncode == 2 and "does not run: it is interrupted" in again.stderr


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        (["--store", ".local/store"], 2, "is a directory of this machine: name a bucket"),
        (["--address", "http://127.0.0.1:{port}"], 4, "no Ray dashboard answers at http://127.0.0.1:{port}"),
        (["--set", "split.task=https://me:secret@host"], 2, ""),
    ],
)
def test_what_cannot_go_there_is_refused_in_a_sentence(
    bucket: str,
    by_hand: str,
    changes: list[str],
    code: int,
    sentence: str,
    drawn: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = str(free_ports(1)[0])
    monkeypatch.chdir(drawn)
    os.makedirs(drawn / ".local", exist_ok=True)
    if not (drawn / ".local/store").exists():
        (drawn / ".local/store").symlink_to(drawn / "store")
    changes = [change.format(port=port) for change in changes]
    done = small.orch("train", *small.options(bucket, **{"seed": "7"}), "--address", by_hand, *changes)
    assert done.returncode == code, done.stderr
    assert sentence.format(port=port) in done.stderr and "Traceback" not in done.stderr


def test_a_password_in_a_url_is_not_submitted(by_hand: str) -> None:
    from compgan_core.errors import ConfigurationError

    server = JobServer(by_hand)
    before = len(server.jobs())
    with pytest.raises(ConfigurationError, match="holds a password"):
        server.submit(["sweep", "--mlflow", "https://me:secret@mlflow.example"])
    assert len(server.jobs()) == before


def test_what_is_for_this_machine_is_not_sent() -> None:
    command = "train --data x --address http://h:1 --store=s --json --set a=b --report r --workers 2"
    assert arguments_there(command.split()) == "train --data x --set a=b --workers 2".split()
