from __future__ import annotations

import os
from pathlib import Path

import pytest

from compgan_core.errors import ConfigurationError, StorageError
from orchestrator.artifacts.store import DirectoryStore, KeyMissing, open_store, prove_usable, valid_key


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://bucket/x", "not https"),
        ("gs://bucket/x", "not gs"),
        ("s3:///prefix", "no bucket"),
        ("s3://id:hunter2@bucket/x", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?endpoint=http://y", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_url_of_another_kind_is_refused_without_showing_secrets(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_a_path_and_its_file_url_are_the_same_store(tmp_path: Path) -> None:
    open_store(tmp_path / "with space").put_bytes("a", b"1")
    assert open_store(f"file://{tmp_path}/with%20space").get_bytes("a") == b"1"


def test_a_relative_path_stays_the_same_store_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs")  # Ray changes the working directory of its workers
    monkeypatch.chdir("/")
    store.put_bytes("a", b"1")
    assert (tmp_path / "runs/a").read_bytes() == b"1"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/", "../a", "a/../b", "./a", "a\\b", ".partial/x"])
def test_a_key_that_could_leave_the_store_is_not_a_key(key: str) -> None:
    assert not valid_key(key)


def test_what_a_killed_write_leaves_is_not_listed(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put_bytes("a/b", b"1")
    (tmp_path / ".partial" / "left").write_bytes(b"half")
    assert list(store.keys()) == ["a/b"]


def test_a_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put_bytes("a", b"1", create_only=True)
    store.put_bytes("a", b"2", create_only=True)
    store.get_file("a", tmp_path / "copy")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".partial", "a", "copy", "store"]


def test_a_failed_read_leaves_the_old_file_alone(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    (tmp_path / "copy").write_bytes(b"old")
    with pytest.raises(KeyMissing, match="has no object a"):
        store.get_file("a", tmp_path / "copy")
    assert os.listdir(tmp_path) == ["copy"] and (tmp_path / "copy").read_bytes() == b"old"


def test_a_place_that_cannot_hold_a_store_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write check/\w+ in .*/file/store: Not a directory"):
        open_store(tmp_path / "file/store").check()


def test_check_finds_a_store_that_ignores_create_only(tmp_path: Path) -> None:
    class Careless(DirectoryStore):
        def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
            return super().put_bytes(key, data)

    with pytest.raises(StorageError, match="ignores If-None-Match"):
        prove_usable(Careless(tmp_path))
