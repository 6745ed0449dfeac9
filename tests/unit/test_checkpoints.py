from __future__ import annotations

from pathlib import Path

import pytest

from compgan_core.errors import StorageError
from orchestrator.artifacts.artifacts import FileEntry, sha256_of
from orchestrator.artifacts.store import DirectoryStore
from orchestrator.runtime.checkpoints import Checkpoint, Checkpoints, Damaged


class Stage:
    """The checkpoints of a stage in a directory store, and what was said about them."""

    def __init__(self, directory: Path):
        self.store = DirectoryStore(directory / "store")
        self.checkpoints = Checkpoints(self.store, "toy", "f00d")
        self.scratch, self.out = directory / "scratch", directory / "out"
        self.said: list[str] = []

    def save(self, step: int, keep: int = 2) -> str:
        """The key of the one file that the checkpoint has."""
        self.scratch.write_text(f"state {step}")
        key = f"train/run/toy-{step}/state"
        self.store.put_file(key, self.scratch)
        entry = FileEntry(key=key, size_bytes=self.scratch.stat().st_size, sha256=sha256_of(self.scratch))
        self.checkpoints.acknowledge(Checkpoint(step=step, files={"state": entry}), keep)
        return key

    def fetch_newest(self) -> tuple[int | None, str]:
        self.out.mkdir(exist_ok=True)
        step = self.checkpoints.fetch_newest(self.out, self.said.append)
        return step, (self.out / "state").read_text() if step is not None else ""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_the_newest_is_fetched_and_only_the_newest_are_kept(stage: Stage) -> None:
    for step in (5, 10, 15):
        stage.save(step)
    assert stage.fetch_newest() == (15, "state 15")
    assert list(stage.store.keys()) == [
        "checkpoints/toy/f00d/00000010.json",
        "checkpoints/toy/f00d/00000015.json",
        "train/run/toy-10/state",
        "train/run/toy-15/state",
    ]


def test_files_without_a_pointer_are_no_checkpoint(stage: Stage) -> None:
    stage.save(5)
    stage.store.put_bytes("train/run/toy-10/state", b"uploaded, then killed")
    assert stage.fetch_newest() == (5, "state 5")


@pytest.mark.parametrize("damage", ["other bytes", "no file", "no JSON"])
def test_a_damaged_checkpoint_is_passed_over_and_said_so(stage: Stage, damage: str) -> None:
    stage.save(5)
    key = stage.save(10)
    if damage == "other bytes":
        stage.store.put_bytes(key, b"state 11")
    elif damage == "no file":
        stage.store.delete(key)
    else:
        stage.store.put_bytes("checkpoints/toy/f00d/00000010.json", b"{")
    assert stage.fetch_newest() == (5, "state 5")
    assert len(stage.said) == 1
    assert "trying the one before it" in stage.said[0]


def test_a_later_checkpoint_that_was_passed_over_goes_when_the_next_one_is_saved(stage: Stage) -> None:
    stage.save(5)
    stage.store.put_bytes(stage.save(10), b"damaged")
    stage.save(8)
    assert stage.fetch_newest() == (8, "state 8")
    assert not any("10" in key for key in stage.store.keys())


def test_a_store_that_cannot_be_read_is_not_taken_for_one_without_checkpoints(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.save(5)

    def fail(key: str, path: Path) -> None:
        raise StorageError("the network is down")

    monkeypatch.setattr(stage.store, "get_file", fail)
    with pytest.raises(StorageError, match="the network is down"):
        stage.fetch_newest()


def test_a_pointer_cannot_make_a_worker_write_outside_its_directory(stage: Stage) -> None:
    key = stage.save(5)
    entry = {"key": key, "size_bytes": 7, "sha256": ""}
    text = f'{{"step": 5, "files": {{"../outside": {entry}}}}}'.replace("'", '"')
    stage.store.put_bytes("checkpoints/toy/f00d/00000005.json", text.encode())
    with pytest.raises(Damaged, match="not a plain relative path"):
        stage.checkpoints.fetch(5, stage.out)


def test_no_checkpoints_is_not_an_error_and_discarding_leaves_nothing(stage: Stage) -> None:
    assert stage.fetch_newest() == (None, "")
    stage.save(5)
    stage.save(10)
    stage.checkpoints.discard()
    assert list(stage.store.keys()) == []
