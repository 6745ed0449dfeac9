"""A proxy before a real S3 server that answers some requests as a bad day would."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["", "denied", "slow down", "cut", "reset", "time-out", "slow", "twice"]
BAD_DAY: tuple[Fault, ...] = ("slow down", "cut", "reset", "time-out", "slow", "twice")
HOLD_S = 3.0
"""How long a request without an answer is held."""
REFUSALS = {"denied": (403, "AccessDenied"), "slow down": (503, "SlowDown")}


class FaultProxy:
    """Serves while a `with` block lasts. fault: (method, path) -> what happens to the request; "" is nothing.

    denied, slow down: refused with 403, 503, and not passed on. The others are passed on, and their answer is then
    cut: broken off in the middle; reset: the same, and the connection is reset; time-out: held back for HOLD_S and
    never given; slow: given in drops; twice: that to the same request passed on once more, as after a lost answer.
    """

    def __init__(self, endpoint: str, fault: Callable[[str, str], Fault]):
        self.requests: list[tuple[str, str]] = []
        proxy, upstream = self, urlsplit(endpoint).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.flush()
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                kind = fault(self.command, self.path)
                if kind in REFUSALS:
                    status, code = REFUSALS[kind]
                    self.reply(
                        status, [], b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
                    )
                    return
                for _ in range(2 if kind == "twice" else 1):
                    server = http.client.HTTPConnection(upstream, timeout=60)
                    server.request(self.command, self.path, body, dict(self.headers))  # with the Host that was signed
                    response = server.getresponse()
                    content = response.read()
                    server.close()
                if kind == "time-out":
                    time.sleep(HOLD_S)
                    self.close_connection = True
                    return
                self.reply(response.status, response.getheaders(), content, kind)

            def reply(self, status: int, headers: list, content: bytes, kind: Fault = "") -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                        self.send_header(name, value)
                length = dict((n.lower(), v) for n, v in headers).get("content-length", str(len(content)))
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
                self.end_headers()
                if kind == "slow":
                    for start in range(0, len(content), len(content) // 10 + 1):
                        self.wfile.write(content[start : start + len(content) // 10 + 1])
                        time.sleep(0.05)
                    return
                broken = kind in ("cut", "reset")
                self.wfile.write(content[: len(content) // 2] if broken else content)
                self.close_connection = broken
                if kind == "reset":  # closed with no time to linger, and past the server, which would say goodbye
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(self.connection.detach())

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
