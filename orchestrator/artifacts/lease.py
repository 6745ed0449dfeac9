"""One owner at a time for a stage, over a store whose only primitive is "create this key if it does not exist".

    leases/<stage>/<fingerprint>/<n>         who owns turn n; created create-only, never overwritten
    leases/<stage>/<fingerprint>/<n>.beat    overwritten by the owner every quarter of the time to live

The highest n is the present turn. It is over when its beat says `released`, when its owner was a process of this
machine that has ended, or when a waiter has watched the beat for `ttl_s` on its own monotonic clock without seeing it
change: no clock is ever compared with another one. Whoever then creates n + 1 first owns the stage. A turn is never
reused, so a late owner cannot mistake another's turn for its own.

An owner learns that it was overtaken from a higher turn, and doubts itself (`held` is False) as soon as its last good
beat is `ttl_s` old, for instance after the machine slept. The lease saves work; what makes the result right
is that records are create-only: two owners would waste time, never mix their files.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from compgan_core.errors import StorageError
from orchestrator.artifacts.store import KeyMissing, Store

LEASES = "leases"
RELEASED = b"released"
log = logging.getLogger(__name__)


class Lease:
    """The right to compute one stage. As a context manager it waits for its turn, and releases it at the end.

    ttl_s: how long an owner may be silent before it counts as dead.
    """

    def __init__(self, store: Store, stage: str, fingerprint: str, *, ttl_s: float = 60.0):
        self.store, self.ttl_s = store, ttl_s
        self._prefix = f"{LEASES}/{stage}/{fingerprint}/"
        self._turn = 0
        self._overtaken = False
        self._good_until = 0.0
        self._watched: tuple[int, bytes] | None = None
        self._watched_since = 0.0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether the stage is surely still ours."""
        return self._turn > 0 and not self._overtaken and time.monotonic() < self._good_until

    def acquire(self, done: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the stage is ours (True), or until `done()` says that it is no longer needed (False)."""
        while not done():
            if self.try_acquire():
                return True
            time.sleep(self.ttl_s / 20 * random.uniform(0.5, 1.5))
        return False

    def try_acquire(self) -> bool:
        """Look once, without waiting. A dead owner is noticed only by looking repeatedly through the same object."""
        assert self._turn == 0, "this lease is held, or was; make a new one"
        last = max(self._turns(), default=0)
        if last and not self._is_over(last):
            return False
        started = time.monotonic()
        if not self._create(last + 1):
            return False
        self._turn, self._good_until = last + 1, started + self.ttl_s
        self._heart = threading.Thread(target=self._keep_beating, name=f"lease {self._prefix}", daemon=True)
        self._heart.start()
        return True

    def release(self) -> None:
        """Let the next one in. Does nothing if the lease was never held."""
        if self._heart is None:
            return
        self._stop.set()
        self._heart.join()
        self._heart = None
        self._good_until = 0.0
        if not self._overtaken:
            self.store.put_bytes(self._beat_key(self._turn), RELEASED)

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _turns(self) -> list[int]:
        names = (key[len(self._prefix) :] for key in self.store.keys(self._prefix))
        return [int(name) for name in names if name.isdigit()]

    def _is_over(self, turn: int) -> bool:
        try:
            beat = self.store.get_bytes(self._beat_key(turn))
        except KeyMissing:
            beat = b""  # it has not beaten yet
        now = time.monotonic()
        if self._watched != (turn, beat):
            self._watched, self._watched_since = (turn, beat), now
        return beat == RELEASED or now - self._watched_since >= self.ttl_s or self._owner_has_ended(turn)

    def _owner_has_ended(self, turn: int) -> bool:
        """Whether it was a process of this machine, and is none any more. Of other machines that cannot be known."""
        owner = json.loads(self.store.get_bytes(f"{self._prefix}{turn:08d}"))
        return owner["machine"] == _machine() != "" and _started(owner["pid"]) != owner["started"]

    def _create(self, turn: int) -> bool:
        process = {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}
        owner = {"host": socket.gethostname(), "id": uuid.uuid4().hex, **process}
        key, data = f"{self._prefix}{turn:08d}", json.dumps(owner).encode()
        # A write whose answer was lost is repeated below us, and then finds its own object in the way.
        return self.store.put_bytes(key, data, create_only=True) or self.store.get_bytes(key) == data

    def _keep_beating(self) -> None:
        count = 0
        while not self._overtaken:
            count += 1
            self._beat(count)
            if self._stop.wait(self.ttl_s / 4):
                return

    def _beat(self, count: int) -> None:
        started = time.monotonic()
        try:
            self.store.put_bytes(self._beat_key(self._turn), str(count).encode())
            self._overtaken = max(self._turns(), default=0) != self._turn
        except StorageError as error:
            log.warning("the lease %s could not be renewed: %s", self._prefix, error)
        else:
            self._good_until = started + self.ttl_s

    def _beat_key(self, turn: int) -> str:
        return f"{self._prefix}{turn:08d}.beat"


def _machine() -> str:
    """Names this machine since it was started, and what numbers its processes; empty where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was, as a number may be used again; empty if it ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
