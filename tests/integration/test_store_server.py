from __future__ import annotations

import errno
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from compgan_core.errors import StorageError
from orchestrator.artifacts.store import open_store
from orchestrator.store_server import Credentials, StoreServer, serve

pytestmark = pytest.mark.integration

PARENT = """
import sys, time
from pathlib import Path
from orchestrator.store_server import StoreServer
with StoreServer(Path(sys.argv[1])) as server:
    print(server.credentials.pid, flush=True)
    time.sleep(600)
"""


def use(server: StoreServer, patch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        patch.setenv(name, value)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.05)


def test_data_and_keys_outlive_a_killed_server(
    s3: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StoreServer(tmp_path) as first:
        use(first, monkeypatch)
        store = open_store("s3://faces")
        store.check(create=True)
        written = [f"key-{n}" for n in range(8) if store.put_bytes(f"key-{n}", bytes([n]), create_only=True)]
        os.kill(first.credentials.pid, signal.SIGKILL)
    with StoreServer(tmp_path) as second:
        assert (second.access_key, second.secret_key) == (first.access_key, first.secret_key)
        use(second, monkeypatch)
        store = open_store("s3://faces")
        assert list(store.keys()) == written
        assert [store.get_bytes(key) for key in written] == [bytes([n]) for n in range(8)]


def test_a_large_object_leaves_nothing_on_disk_when_deleted(s3: StoreServer, s3_url: str, tmp_path: Path) -> None:
    def stored_bytes() -> int:
        return sum(p.stat().st_size for p in (s3.data_dir / "devices").rglob("*.data"))

    before, store = stored_bytes(), open_store(s3_url)
    (tmp_path / "big").write_bytes(os.urandom(33 * 2**20))  # goes up in parts
    store.put_file("big", tmp_path / "big")
    assert stored_bytes() >= before + 33 * 2**20
    store.delete("big")
    assert stored_bytes() == before


def test_only_the_owner_reads_the_keys_and_no_command_line_shows_them(s3: StoreServer) -> None:
    for file in ("credentials.json", "etc"):
        assert stat.S_IMODE((s3.data_dir / file).stat().st_mode) & 0o077 == 0
    assert s3.secret_key.encode() not in Path(f"/proc/{s3.credentials.pid}/cmdline").read_bytes()
    assert s3.secret_key not in repr(s3.credentials)
    assert Credentials.read(s3.data_dir) == s3.credentials


def test_the_servers_behind_the_proxy_answer_nobody_else(s3: StoreServer) -> None:
    rings = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ports = {int(port) for port in re.findall(rf":(\d+)\s.*pid={s3.credentials.pid},", rings)}
    assert len(ports) == 4
    for port in ports - {int(s3.endpoint.rpartition(":")[2])}:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/disk/0/AUTH_orch")


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until_gone(pid)


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server:
        pid = server.credentials.pid
    assert not Path(f"/proc/{pid}").exists()
    assert (tmp_path / "server.log").read_text() == ""  # nothing complained, eventlet's farewell included


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match=rf"cannot listen on 127.0.0.1:{port} \(Address already in use\)"):
            StoreServer(tmp_path, port).__enter__()


def test_a_directory_is_served_once(s3: StoreServer) -> None:
    with pytest.raises(StorageError, match="is served already"):
        StoreServer(s3.data_dir).__enter__()


def test_nothing_served_yet_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="orch store serve"):
        Credentials.read(tmp_path)


def test_a_file_system_without_extended_attributes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(StorageError, match="without user extended attributes"):
        serve(tmp_path)
