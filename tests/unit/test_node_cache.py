from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compgan_core.errors import CapacityError
from orchestrator.artifacts.node_cache import NodeCache

KIB = 1024


def fill(directory: Path) -> None:
    (directory / "data").write_bytes(b"x" * KIB)


def get(cache: NodeCache, name: str) -> Path:
    """In another process, which then ends and so no longer uses what it got."""
    code = "import pickle, sys; from pathlib import Path; cache, name = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
    code += f"cache.get(name, {KIB}, lambda d: (d / 'data').write_bytes(b'x' * {KIB}))"
    subprocess.run([sys.executable, "-c", code, pickle.dumps((cache, name)).hex()], check=True)
    return cache.directory / name


@pytest.mark.timeout(20)
@pytest.mark.parametrize("attempt", range(10))
def test_threads_that_ask_at_once_fill_an_entry_once(tmp_path: Path, attempt: int) -> None:
    cache, calls = NodeCache(tmp_path), []
    with ThreadPoolExecutor(4) as pool:
        places = [*pool.map(lambda _: cache.get("s/f/1", KIB, lambda d: (calls.append(d), fill(d))), range(8))]
    assert len(calls) == 1 and len({*places}) == 1
    assert (places[0] / "data").stat().st_size == KIB == cache.size_bytes()


def test_the_least_recently_used_entry_makes_room(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, limit_bytes=2 * KIB)
    first, second = get(cache, "s/f/1"), get(cache, "s/f/2")
    os.utime(second, (time.time() - 99, time.time() - 99))
    third = get(cache, "s/f/3")
    assert [entry.is_dir() for entry in (first, second, third)] == [True, False, True]


def test_what_a_living_process_uses_is_not_removed(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, limit_bytes=2 * KIB)
    used = cache.get("s/f/1", KIB, fill)
    os.utime(used, (0, 0))
    idle = get(cache, "s/f/2")
    get(cache, "s/f/3")
    assert used.is_dir() and not idle.is_dir()


def test_what_was_let_go_may_be_removed(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, limit_bytes=KIB)
    used = cache.get("s/f/1", KIB, fill)
    cache.release()
    get(cache, "s/f/2")
    assert not used.exists()


def test_an_entry_that_was_removed_is_filled_again(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, limit_bytes=KIB)
    first = get(cache, "s/f/1")
    get(cache, "s/f/2")
    assert not first.exists()
    assert (cache.get("s/f/1", KIB, fill) / "data").exists()


def test_what_can_never_fit_on_the_disk_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="COMPGAN_CACHE to a larger disk"):
        NodeCache(tmp_path).get("s/f/1", 1 << 60, lambda directory: pytest.fail("fetched"))


def test_a_fill_that_fails_leaves_no_entry(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.get("s/f/1", KIB, lambda directory: 1 / 0)
    assert (cache.get("s/f/1", KIB, fill) / "data").exists()


@pytest.mark.timeout(20)
def test_a_process_that_looked_before_an_entry_was_there_does_not_wait_for_whoever_uses_it(tmp_path: Path) -> None:
    """Two workers of a run: one fetched and goes on to a collective, in which it waits for the other."""
    code = f"""import sys; from pathlib import Path; from orchestrator.artifacts.node_cache import NodeCache
cache = NodeCache(Path({str(tmp_path)!r}))
cache.get("s/f/1", {KIB}, lambda d: (d / "data").write_bytes(b"x" * {KIB})); print(flush=True); sys.stdin.read()"""
    users: list[subprocess.Popen[str]] = []

    class Late(NodeCache):
        def _hold(self, name: str, target: Path) -> bool:
            found = super()._hold(name, target)
            if not found and not users:
                pipe = subprocess.PIPE
                users.append(subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True))
                users[0].stdout.readline()
            return found

    assert (Late(tmp_path).get("s/f/1", KIB, lambda d: pytest.fail("filled twice")) / "data").exists()
    users[0].communicate("")
