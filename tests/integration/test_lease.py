from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orchestrator.artifacts import lease
from orchestrator.artifacts.lease import Lease
from orchestrator.artifacts.store import Store

STAGE = ("compgan", "f00")
HOLDER = """
import pickle, sys
from orchestrator.artifacts.lease import Lease
lease = Lease(pickle.load(open(sys.argv[1], "rb")), "compgan", "f00", ttl_s=float(sys.argv[2]))
lease.acquire()
print(lease.held, flush=True)
for _ in sys.stdin:
    print(lease.held, flush=True)
"""


@pytest.fixture
def ttl_s(store: Store) -> float:
    return 2.0 if store.url.startswith("s3:") else 1.0


@pytest.fixture
def holder(store: Store, ttl_s: float, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease. It says whether it still does for each line it is sent."""
    (tmp_path / "dump").write_bytes(pickle.dumps(store))
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "dump"), str(ttl_s)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "True\n"
    yield child
    child.kill()
    child.communicate()


def ask(child: subprocess.Popen[str]) -> str:
    assert child.stdin and child.stdout
    child.stdin.write("?\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def timed(wait: Callable[[], object]) -> float:
    started = time.monotonic()
    wait()
    return time.monotonic() - started


def test_of_eight_that_ask_at_once_one_gets_it(store: Store) -> None:
    leases, start = [Lease(store, *STAGE) for _ in range(8)], Barrier(8)

    def ask_for(each: Lease) -> bool:
        start.wait()
        return each.try_acquire()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask_for, leases)).count(True) == 1
    assert [each.held for each in leases].count(True) == 1
    for each in leases:
        each.release()


def test_a_released_lease_goes_to_the_next_at_once(store: Store) -> None:
    with Lease(store, *STAGE) as first:
        assert first.held
        assert not Lease(store, *STAGE).try_acquire()
    assert not first.held
    second = Lease(store, *STAGE)
    assert second.try_acquire()
    second.release()


def test_a_failure_inside_releases_it(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), Lease(store, *STAGE):
        raise ZeroDivisionError
    second = Lease(store, *STAGE)
    assert second.try_acquire()
    second.release()


def test_waiting_ends_when_the_work_is_done_by_another(store: Store, ttl_s: float) -> None:
    with Lease(store, *STAGE, ttl_s=ttl_s):
        answers = iter([False, False, True])
        assert not Lease(store, *STAGE, ttl_s=ttl_s).acquire(done=lambda: next(answers))


def test_a_living_holder_keeps_it_and_a_killed_one_loses_it_to_another_machine(
    store: Store, ttl_s: float, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    waiter, patience = Lease(store, *STAGE, ttl_s=ttl_s), time.monotonic() + 2 * ttl_s
    assert not waiter.acquire(done=lambda: time.monotonic() > patience)
    assert ask(holder) == "True"
    holder.send_signal(signal.SIGKILL)
    assert timed(waiter.acquire) < 4 * ttl_s
    assert waiter.held
    waiter.release()


def test_on_one_machine_nobody_waits_for_the_time_to_live_of_the_killed(
    store: Store, holder: subprocess.Popen[str]
) -> None:
    waiter = Lease(store, *STAGE, ttl_s=1000)
    assert not waiter.try_acquire()
    holder.kill()
    deadline = time.monotonic() + 10
    while not waiter.try_acquire():
        assert time.monotonic() < deadline
    waiter.release()


def test_a_holder_that_slept_too_long_knows_that_it_lost(
    store: Store, ttl_s: float, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGSTOP)
    with Lease(store, *STAGE, ttl_s=ttl_s) as waiter:
        holder.send_signal(signal.SIGCONT)
        assert ask(holder) == "False"
        time.sleep(ttl_s)  # it does not take it back
        assert ask(holder) == "False" and waiter.held
