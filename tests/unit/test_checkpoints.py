from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from compgan_core.errors import StorageError
from orchestrator.artifacts.artifacts import FileEntry, sha256_of
from orchestrator.artifacts.store import DirectoryStore
from orchestrator.runtime.alone import AloneRuntime, Left
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


class Slow(DirectoryStore):
    """A store that takes files when it is let."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.open, self.fails = threading.Event(), False

    def put_file(self, key: str, path: Path) -> None:
        assert self.open.wait(10)
        if self.fails:
            raise StorageError("the network is down")
        super().put_file(key, path)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return Slow(tmp_path / "store")


def begun(store: Slow) -> AloneRuntime:
    runtime = AloneRuntime(store, lambda event: None, device="cpu")
    runtime.begin("toy", "f00d")
    return runtime


def state(text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / "state").write_text(text) and None


def test_training_goes_on_while_a_checkpoint_is_under_way_and_only_then_it_exists(slow: Slow, tmp_path: Path) -> None:
    runtime = begun(slow)
    runtime.save_checkpoint(5, state("state 5"))
    assert [*slow.keys("checkpoints/toy/f00d/")] == []
    slow.open.set()
    runtime.settle()
    with begun(slow).latest_checkpoint() as directory:
        assert directory and (directory / "state").read_text() == "state 5"
    assert [*(tmp_path / "scratch").iterdir()] == []  # nothing stays on this disk


def test_the_next_checkpoint_waits_for_the_one_before_so_that_the_disk_holds_one(slow: Slow, tmp_path: Path) -> None:
    runtime = begun(slow)
    runtime.save_checkpoint(5, state("state 5"))
    second = threading.Thread(target=runtime.save_checkpoint, args=(10, state("state 10")))
    second.start()
    second.join(0.2)
    assert second.is_alive() and len([*(tmp_path / "scratch").iterdir()]) == 1
    slow.open.set()
    second.join(10)
    runtime.settle()
    assert [Path(key).stem for key in slow.keys("checkpoints/") if key.endswith(".json")] == ["00000005", "00000010"]


def test_a_checkpoint_that_cannot_be_stored_stops_the_training_at_the_next_one(slow: Slow, tmp_path: Path) -> None:
    runtime = begun(slow)
    slow.fails = True
    slow.open.set()
    runtime.save_checkpoint(5, state("state 5"))
    with pytest.raises(StorageError, match="the network is down"):
        runtime.save_checkpoint(10, state("state 10"))
    assert [*slow.keys()] == [] and [*(tmp_path / "scratch").iterdir()] == []


def test_who_is_asked_to_leave_saves_first(slow: Slow) -> None:
    runtime = begun(slow)
    assert not runtime.checkpoint_due(4)
    runtime.leave()
    assert runtime.checkpoint_due(5)
    slow.open.set()
    with pytest.raises(Left, match="toy was saved at step 5"):
        runtime.save_checkpoint(5, state("state 5"))
    assert slow.exists("checkpoints/toy/f00d/00000005.json")
