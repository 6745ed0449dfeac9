"""What both kinds of store promise."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orchestrator.artifacts.store import KeyMissing, Store


def test_check_leaves_no_trace(store: Store) -> None:
    store.check()
    assert list(store.keys()) == []


def test_bytes_come_back_and_are_replaced(store: Store) -> None:
    assert store.put_bytes("a/b", b"one")
    assert store.put_bytes("a/b", b"two")
    assert store.get_bytes("a/b") == b"two"


def test_create_only_keeps_the_first(store: Store) -> None:
    assert store.put_bytes("a", b"first", create_only=True)
    assert not store.put_bytes("a", b"second", create_only=True)
    assert store.get_bytes("a") == b"first"


def test_of_sixteen_that_create_a_key_at_once_exactly_one_wins(store: Store) -> None:
    start = Barrier(16)

    def race(key: str, runner: int) -> bool:
        start.wait()
        return store.put_bytes(key, str(runner).encode(), create_only=True)

    with ThreadPoolExecutor(16) as pool:
        for key in ("one", "two", "three", "four"):  # a server without a lock gets away with one round in three
            won = list(pool.map(race, [key] * 16, range(16)))
            assert won.count(True) == 1
            assert store.get_bytes(key) == str(won.index(True)).encode()


def test_keys_are_sorted_as_text_and_filtered_by_prefix(store: Store) -> None:
    for key in ("a/b/2", "a/b.x", "a/b/10", "ab", "b/é"):
        store.put_bytes(key, b"")
    assert list(store.keys()) == ["a/b.x", "a/b/10", "a/b/2", "ab", "b/é"]
    assert list(store.keys("a/b")) == ["a/b.x", "a/b/10", "a/b/2"]
    assert list(store.keys("a/b/")) == ["a/b/10", "a/b/2"]
    assert list(store.keys("nothing/")) == []


def test_a_deleted_key_is_gone_and_may_be_deleted_again(store: Store) -> None:
    store.put_bytes("a/b", b"")
    assert store.exists("a/b") and not store.exists("a")
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b") and list(store.keys()) == []


@pytest.mark.parametrize("size", [0, 1000, 40 * 2**20])  # the last goes up in parts and down in ranges
def test_files_come_back_whole(store: Store, tmp_path: Path, size: int) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(range(251)) * (size // 251 + 1))
    store.put_file("dir/file", source)
    store.get_file("dir/file", copy)
    assert copy.read_bytes() == source.read_bytes()


def test_a_missing_key_says_which_and_where(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="has no object a/missing") as caught:
        store.get_bytes("a/missing")
    assert store.url in str(caught.value)
    with pytest.raises(KeyMissing, match="has no object a/missing"):
        store.get_file("a/missing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_pickled_store_is_the_same_store(store: Store) -> None:
    store.put_bytes("a", b"1")  # the connection is open by now
    assert pickle.loads(pickle.dumps(store)).get_bytes("a") == b"1"
