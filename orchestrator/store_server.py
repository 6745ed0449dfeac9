"""An S3 server of our own, for a machine that has no bucket. The engine is in `swift_server`; here it is run and found.

Everything lies in one directory and survives `kill -9`; the same directory served again has the same keys. The server
listens on the loopback interface only: it is for one machine, not for a cluster.

    <data>/credentials.json   endpoint and keys (mode 0600), rewritten at each start
    <data>/etc                Swift's configuration (mode 0700), rewritten at each start
    <data>/devices            the objects (mode 0700)
    <data>/server.log         what a server that runs as a child process complains about
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import http.client
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import urlsplit

from compgan_core.errors import CompganError, ConfigurationError, StorageError
from orchestrator.swift_server import ACCESS_KEY, HOST, REGION, run_swift


@dataclass(frozen=True)
class Credentials:
    """How to reach a served directory. `pid`: the server's process."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int

    @classmethod
    def read(cls, data_dir: Path) -> Credentials:
        """Of the server that serves, or last served, a directory. Raises StorageError if there was none."""
        path = data_dir / "credentials.json"
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise StorageError(f"nothing was ever served from {data_dir}: start it with orch store serve") from error
        except (ValueError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error}): delete it, and the next start makes new keys") from error

    def write(self, data_dir: Path) -> None:
        partial = data_dir / "credentials.json.partial"
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(data_dir / "credentials.json")

    def environment(self) -> dict[str, str]:
        """The variables that lead every S3 client to this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }


def serve(data_dir: Path, port: int = 0, *, ready: Callable[[Credentials], None] = lambda _: None) -> None:
    """Serve a directory until this process is stopped. Takes the process over, so call it from one made for it.

    port: 0 takes a free one. ready: called once, when clients may connect.

    Raises:
        ConfigurationError: Swift is not installed.
        StorageError: the port is taken, the directory is served already, or its file system cannot hold the objects.
    """
    if importlib.util.find_spec("swift") is None:
        raise ConfigurationError("the store server needs Swift: pip install 'compgan-orchestrator[store]'")
    data_dir = data_dir.absolute()
    etc, devices = data_dir / "etc", data_dir / "devices"
    _prepare(etc, devices)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a kill loses nothing, so there is nothing to wait for

    def announce() -> None:
        credentials.write(data_dir)
        ready(credentials)

    with _locked(data_dir), _listen(port) as listener:
        endpoint = f"http://{HOST}:{listener.getsockname()[1]}"
        credentials = Credentials(endpoint, ACCESS_KEY, _secret_key(data_dir), os.getpid())
        run_swift(listener, etc, devices, credentials.secret_key, announce)


class StoreServer:
    """The server as a child process for the length of a `with` block. It ends also when this process is killed."""

    credentials: Credentials

    def __init__(self, data_dir: Path, port: int = 0, *, start_timeout_s: float = 60.0):
        self.data_dir, self.port, self.start_timeout_s = data_dir.absolute(), port, start_timeout_s

    def __enter__(self) -> StoreServer:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "orchestrator.store_server", "--with-parent"]
        command += ["--data", str(self.data_dir), "--port", str(self.port)]
        with (self.data_dir / "server.log").open("wb") as log:
            # A session of its own: Ctrl-C is for us, who may still need the store to finish.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.credentials = self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    @property
    def endpoint(self) -> str:
        return self.credentials.endpoint

    @property
    def access_key(self) -> str:
        return self.credentials.access_key

    @property
    def secret_key(self) -> str:
        return self.credentials.secret_key

    def environment(self) -> dict[str, str]:
        """The AWS_* variables that lead every S3 client to this server."""
        return self.credentials.environment()

    def wait(self) -> None:
        """Until the server ends by itself, which is a StorageError: it never should."""
        status = self._process.wait()
        raise StorageError(f"the store ended with status {status}; see {self.data_dir}/server.log")

    def _stop(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def _wait(self) -> Credentials:
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                lines = (self.data_dir / "server.log").read_text(errors="replace").strip().splitlines()
                raise StorageError(lines[-1] if lines else f"the store ended with status {self._process.returncode}")
            if (self.data_dir / "credentials.json").exists():
                credentials = Credentials.read(self.data_dir)
                if credentials.pid == self._process.pid and _answers(credentials.endpoint):
                    return credentials
            time.sleep(0.05)
        raise StorageError(f"no answer from the store in {self.start_timeout_s:g} s; see {self.data_dir}/server.log")


def _prepare(etc: Path, devices: Path) -> None:
    try:
        for directory in (etc, devices):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.setxattr(devices, "user.orch.check", b"1")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise StorageError(f"cannot keep objects in {devices.parent}: {error.strerror}") from error
        raise StorageError(
            f"{devices.parent} lies on a file system without user extended attributes, which the store needs: "
            "name a directory on ext4, xfs or btrfs"
        ) from error


def _locked(data_dir: Path) -> IO[str]:
    file = (data_dir / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not filelock: it does not survive eventlet's patches
    except BlockingIOError as error:
        raise StorageError(f"{data_dir} is served already: see the endpoint in its credentials.json") from error
    return file


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        why = os.strerror(error.errno or 0)  # its own strerror repeats the address
        raise StorageError(f"cannot listen on {HOST}:{port} ({why}): name another --port, or 0") from error


def _secret_key(data_dir: Path) -> str:
    if (data_dir / "credentials.json").exists():
        return Credentials.read(data_dir).secret_key
    return secrets.token_hex(20)


def _answers(endpoint: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True  # an unsigned request is refused, and a refusal is an answer


def _end_with_parent(_: Credentials) -> None:
    import eventlet

    def wait() -> None:
        eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)  # never written to: readable means closed
        os._exit(0)

    eventlet.spawn(wait)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.store_server", description=serve.__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    try:
        serve(options.data, options.port, ready=_end_with_parent if options.with_parent else lambda _: None)
    except CompganError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
