"""OpenStack Swift with its S3 face in one process: the proxy, and the account, container and object servers behind it.

Two things differ from a stock Swift. `If-None-Match: *` has exactly one winner, through a lock in front of the proxy,
which is enough because this process is the only way in. And the inner servers, which would serve anybody who finds
their port, ask for a secret of this process.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any

HOST, REGION, ACCESS_KEY = "127.0.0.1", "us-east-1", "orch:orch"  # Swift's keys look like account:user
INNER_SERVERS = ("account", "container", "object")
TOKEN_HEADER = "X-Orch-Token"
DEVICE = "disk"

# Waits are long because all servers share a process: a busy one is slow, never gone.
COMMON = """
[DEFAULT]
swift_dir = {etc}
devices = {devices}
mount_check = false
log_level = ERROR
log_custom_handlers = orchestrator.swift_server.log_to_stderr
conn_timeout = 20
node_timeout = 60
container_update_timeout = 60
"""
INNER = "[app:main]\nuse = egg:swift#{name}\n"
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk
    s3api tempauth copy slo dlo versioned_writes symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_limit = 1000000

[filter:tempauth]
use = egg:swift#tempauth
user_orch_orch = {secret_key} .admin

[filter:s3api]
use = egg:swift#s3api
location = {region}
max_upload_part_num = 10000

[filter:slo]
use = egg:swift#slo
allow_async_delete = false
max_manifest_segments = 10000
max_manifest_size = 33554432

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
PLAIN_FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "bulk", "copy", "dlo", "symlink")

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def run_swift(listener: socket.socket, etc: Path, devices: Path, secret_key: str, ready: Callable[[], None]) -> None:
    """Answer S3 requests on a listening socket for ever. `ready` is called once, when clients may connect."""
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    warnings.filterwarnings("ignore", message="capitalize_response_headers is disabled")
    import eventlet
    from swift.common import utils

    utils.monkey_patch()
    _write_configuration(etc, devices, secret_key)
    inner = {name: socket.create_server((HOST, 0)) for name in INNER_SERVERS}
    for name, inner_listener in inner.items():
        _write_ring(etc / f"{name}.ring.gz", inner_listener.getsockname()[1])
    utils.set_swift_dir(str(etc))
    from swift.common.wsgi import loadapp

    token = _sign_connections()
    for name, inner_listener in inner.items():
        eventlet.spawn(_serve, inner_listener, OnlyWithToken(token, loadapp(str(etc / f"{name}.conf"))))
    front = Front(loadapp(str(etc / "proxy.conf")))
    ready()
    _serve(listener, front)


def log_to_stderr(
    conf: dict[str, str], name: str, console: bool, route: str, fmt: str, logger: logging.Logger, adapted: object
) -> None:
    """Swift's hook for loggers: complain on stderr, and leave the machine's syslog alone."""
    logger.handlers = [logging.StreamHandler()]


def _write_configuration(etc: Path, devices: Path, secret_key: str) -> None:
    (devices / DEVICE).mkdir(exist_ok=True)
    common = COMMON.format(etc=etc, devices=devices)
    filters = "".join(f"\n[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS)
    (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = orch\n")  # where objects lie depends on it
    (etc / "proxy.conf").write_text(common + PROXY.format(secret_key=secret_key, region=REGION) + filters)
    for name in INNER_SERVERS:
        (etc / f"{name}.conf").write_text(common + INNER.format(name=name))


def _write_ring(path: Path, port: int) -> None:
    from swift.common.ring import RingBuilder

    builder = RingBuilder(part_power=8, replicas=1, min_part_hours=0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": HOST, "port": port, "device": DEVICE})
    builder.rebalance()
    builder.get_ring().save(str(path))


def _serve(listener: Any, app: WsgiApp) -> None:
    import eventlet.wsgi
    from swift.common.http_protocol import SwiftHttpProtocol

    # S3 clients look for ETag, which eventlet would turn into Etag.
    style: dict[str, Any] = {"protocol": SwiftHttpProtocol, "capitalize_response_headers": False}
    eventlet.wsgi.server(eventlet.greenio.GreenSocket(listener), app, log_output=False, socket_timeout=60, **style)


def _sign_connections() -> str:
    """Make every connection between the servers of this process carry a new secret; returns it."""
    from swift.common.bufferedhttp import BufferedHTTPConnection

    token = secrets.token_hex(16)
    plain = BufferedHTTPConnection.putrequest

    def putrequest(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        self.putheader(TOKEN_HEADER, token)

    BufferedHTTPConnection.putrequest = putrequest
    return token


class OnlyWithToken:
    """An inner server that answers only this process."""

    def __init__(self, token: str, app: WsgiApp):
        self.token, self.app = token, app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_" + TOKEN_HEADER.upper().replace("-", "_"), "")
        if secrets.compare_digest(given, self.token):
            return self.app(environ, start_response)
        start_response("403 Forbidden", [("Content-Length", "0")])
        return []


class Front:
    """The proxy, with conditional writes of one key one after the other, and with its cache."""

    def __init__(self, app: WsgiApp):
        from eventlet.semaphore import Semaphore

        self.app, self.cache = app, Cache()
        self.locks = [Semaphore() for _ in range(256)]  # keys share them by hash

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["swift.cache"] = self.cache
        if "HTTP_IF_NONE_MATCH" not in environ or environ["REQUEST_METHOD"] not in ("PUT", "POST"):
            return self.app(environ, start_response)
        with self.locks[hash(environ["PATH_INFO"]) % len(self.locks)]:
            return self.app(environ, start_response)


class Cache:
    """What Swift's proxy uses of a memcached; without it one GET is three inner requests. Keeps JSON, as that does."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[str, float]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        text, until = self._items.get(key, ("null", 0.0))
        return json.loads(text) if monotonic() < until else None

    def set(self, key: str, value: Any, time: float = 0, raise_on_error: bool = False) -> None:
        self._items[key] = (json.dumps(value), monotonic() + (time or 3600))

    def delete(self, key: str) -> None:
        self._items.pop(key, None)
