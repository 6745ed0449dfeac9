"""`orch` as a user runs it: a process of its own, against a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.store_server import Credentials

pytestmark = pytest.mark.integration

ORCH = (sys.executable, "-c", "from orchestrator.cli.app import main; main()")
DATA = Path(os.environ.get("COMPGAN_DATA", Path(__file__).parents[3] / "shared" / "data"))
CMU_FACES, RENDERED = DATA / "cmu_faces.tar.xz", DATA / "f2ed_render_dev.tar"


def orch(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*ORCH, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))


@pytest.mark.skipif(not CMU_FACES.exists(), reason="the CMU face images are not on this machine")
def test_photographs_go_into_a_bucket_and_come_back_as_a_sheet(s3_url: str, tmp_path: Path) -> None:
    keep = ("--option", "sunglasses=keep", "--store", s3_url, "--json")
    done = orch("data", "import", "cmu-faces", CMU_FACES, "--name", "cmu", *keep)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["poses"] == ["left", "right", "straight", "up"]
    assert [bad["reason"] for bad in facts["quarantined"]] == ["marked bad by the authors"] * 16
    assert (facts["kept"], facts["read"]) == (624, 640)
    assert orch("data", "show", "cmu", "--store", s3_url, "--sheet", tmp_path / "cmu.png").returncode == 0
    assert (tmp_path / "cmu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not RENDERED.exists(), reason="the rendered faces are not on this machine")
def test_the_rendered_faces_are_imported_complete(s3_url: str) -> None:
    done = orch("data", "import", "labelled-tree", RENDERED, "--name", "rendered", "--store", s3_url, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["kept"] == 12_960 and not facts["quarantined"] and not facts["duplicates"]
    assert set(facts["counts"]["identity"].values()) == {54 * 4} and len(facts["counts"]["identity"]) == 60
    assert set(facts["counts"]["expression"].values()) == {60 * 4} and set(facts["counts"]["pose"].values()) == {
        60 * 54
    }


def test_wrong_keys_and_a_closed_port_exit_with_3_and_say_what_to_check(s3_url: str) -> None:
    done = orch("data", "ls", "--store", s3_url, AWS_SECRET_ACCESS_KEY="wrong")
    assert (done.returncode, done.stdout) == (3, "")
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in done.stderr
    done = orch("doctor", "--store", s3_url, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert done.returncode == 3 and "TO DO  store" in done.stdout and "AWS_ENDPOINT_URL" in done.stdout


def test_a_store_that_is_served_can_be_used_as_its_lines_say(tmp_path: Path) -> None:
    data = tmp_path / "it's here"
    serving = [*ORCH, "store", "serve", "--data", str(data), "--port", "0"]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        lines = [server.stdout.readline() for _ in range(6)]
        credentials = Credentials.read(data)
        assert credentials.secret_key not in "".join(lines)
        script = "".join(lines) + '"$@" store create s3://faces && "$@" data ls --store s3://faces --json'
        used = subprocess.run(["bash", "-ec", script, "-", *ORCH], capture_output=True, text=True, timeout=60)
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130
    assert used.returncode == 0, used.stderr
    assert json.loads(used.stdout.splitlines()[-1]) == {"store": "s3://faces", "datasets": []}
    deadline = time.monotonic() + 10
    while Path(f"/proc/{credentials.pid}").exists():
        assert time.monotonic() < deadline, "the server outlives its command"
        time.sleep(0.1)
