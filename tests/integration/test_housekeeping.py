"""`orch gc` and `orch repair` on a store of either kind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import small_study as small

sys.path.append(str(Path(__file__).parents[1] / "unit"))
import run_ledger as told

from orchestrator.artifacts.artifacts import Artifacts, FileEntry, sha256_of
from orchestrator.artifacts.lease import Lease
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.s3 import S3Store
from orchestrator.artifacts.store import DirectoryStore, Store, open_store
from orchestrator.housekeeping import find_damage, find_litter, remove
from orchestrator.monitor.keeper import keep
from orchestrator.runtime.checkpoints import Checkpoint, Checkpoints

DONE, UNDER_WAY = ("pretrain", "d" * 20), ("compgan", "c" * 20)
FACTS = {"recipe": {}, "inputs": {}, "metrics": {}, "seconds": 1.0}


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> Artifacts:
    return Artifacts(store, NodeCache(tmp_path / "cache"))


@pytest.fixture
def used(artifacts: Artifacts, tmp_path: Path) -> Artifacts:
    """A finished stage with its record, and one with two checkpoints, as Ray Train and as one process keep them."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made/weights").write_bytes(b"w" * 100)
    artifacts.publish(*DONE, tmp_path / "made", **FACTS)
    save(artifacts.store, UNDER_WAY, 10, f"train/study-1a2b3c4d/compgan-{'c' * 12}-00000010")
    save(artifacts.store, UNDER_WAY, 20, f"checkpoints/compgan/{'c' * 20}/a1b2c3d4e5f6")
    return artifacts


def save(store: Store, home: tuple[str, str], step: int, prefix: str) -> None:
    path = Path(os.environ["COMPGAN_SCRATCH"]) / "state"
    path.write_text(f"state {step}")
    entry = FileEntry(key=f"{prefix}/state", size_bytes=path.stat().st_size, sha256=sha256_of(path))
    store.put_file(entry.key, path)
    Checkpoints(store, *home).acknowledge(Checkpoint(step=step, files={"state": entry}), 9)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("COMPGAN_SCRATCH", str(tmp_path / "scratch"))


def litter(store: Store) -> list[str]:
    """Something of every kind that killed processes leave; the keys."""
    with Lease(store, *DONE):
        pass
    save(store, DONE, 5, f"train/study-1a2b3c4d/pretrain-{'d' * 12}-00000005")
    alone = [
        f"artifacts/compgan/{'c' * 20}/0123456789ab/weights",
        f"artifacts/pretrain/{'d' * 20}/0123456789ab/weights",
        f"checkpoints/compgan/{'c' * 20}/000000000000/state",
        f"train/study-1a2b3c4d/compgan-{'c' * 12}-00000015/state",
        "train/other-5e6f7a8b/.validate_storage_marker",
        "check/0123",
    ]
    for key in alone:
        store.put_bytes(key, b"litter")
    of_done = [
        f"checkpoints/pretrain/{'d' * 20}/00000005.json",
        f"train/study-1a2b3c4d/pretrain-{'d' * 12}-00000005/state",
    ]
    return sorted([*alone, *of_done, *store.keys("leases/")])


def begin_a_write(store: Store) -> None:
    if isinstance(store, S3Store):
        place = {"Bucket": store.bucket, "Key": f"{store.prefix}/artifacts/x/y/z/big"}
        upload = store._client.create_multipart_upload(**place)["UploadId"]
        store._client.upload_part(**place, PartNumber=1, UploadId=upload, Body=b"half")
    else:
        assert isinstance(store, DirectoryStore)
        (store.root / ".partial/0123").write_bytes(b"half")


def test_what_nothing_names_is_found_and_removed_and_the_rest_stays(used: Artifacts) -> None:
    store = used.store
    before = {*store.keys()}
    left = litter(store)
    begin_a_write(store)
    found = find_litter(used, 0)
    keys = [stored.key for item in found for stored in item.objects if not stored.upload]
    assert sorted(keys) == left
    assert {*store.keys()} == before | {*left}  # looking has changed nothing
    (unfinished,) = [s for item in found for s in item.objects if s.upload]
    assert remove(store, found) == len(left) + 1
    assert {*store.keys()} == before
    assert unfinished not in store.unfinished()
    record = used.record(*DONE)
    assert record and (used.fetch(record) / "weights").read_bytes() == b"w" * 100
    assert find_litter(used, 0) == []


def test_what_is_young_stays(used: Artifacts) -> None:
    litter(used.store)
    begin_a_write(used.store)
    assert find_litter(used, 3600) == []


def test_what_a_living_process_is_at_stays(used: Artifacts) -> None:
    """It holds the lease of a stage; it has uploaded files, for a record and a checkpoint still to come."""
    store = used.store
    coming = [
        f"artifacts/compgan/{'c' * 20}/0123456789ab/weights",
        f"checkpoints/compgan/{'c' * 20}/000000000000/state",
        f"train/study-1a2b3c4d/compgan-{'c' * 12}-00000030/state",
        "train/study-1a2b3c4d/.validate_storage_marker",
    ]
    with Lease(store, *UNDER_WAY):
        for key in coming:
            store.put_bytes(key, b"to be named")
        assert find_litter(used, 0) == []
    found = {stored.key for item in find_litter(used, 0) for stored in item.objects}
    assert found == {*coming}


def test_a_run_whose_ledger_is_written_to_keeps_what_ray_train_needs(used: Artifacts) -> None:
    head = told.head()
    marker = f"train/{head.study}-12345678/.validate_storage_marker"
    used.store.put_bytes(marker, b"")
    with keep(used.store, head):
        assert find_litter(used, 0) == []
    (item,) = find_litter(used, 0)
    assert [stored.key for stored in item.objects] == [marker]


def test_a_record_that_came_meanwhile_saves_its_files(used: Artifacts, tmp_path: Path) -> None:
    key = f"artifacts/finetune/{'f' * 20}/0123456789ab/weights"
    used.store.put_bytes(key, b"w")
    found = find_litter(used, 0)
    entry = FileEntry(key=key, size_bytes=1, sha256="0" * 64)
    (tmp_path / "empty").mkdir()
    used.publish("finetune", "f" * 20, tmp_path / "empty", **FACTS, references={"weights": entry})
    assert remove(used.store, found) == 0 and used.store.exists(key)


def test_a_damaged_record_stops_it_before_anything_is_removed(used: Artifacts) -> None:
    litter(used.store)
    used.store.put_bytes(f"artifacts/judge/{'e' * 20}/record.json", b"{")
    done = small.orch("gc", "--delete", "--store", used.store.url)
    assert done.returncode == 3 and "is damaged" in done.stderr


def test_gc_shows_first_and_removes_when_told(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    old, young = "train/run-1/old", "train/run-2/young"
    for key in (old, young):
        store.put_bytes(key, b"x" * 1000)
    days_ago = time.time() - 3 * 86400
    os.utime(tmp_path / "store" / old, (days_ago, days_ago))
    command = ["gc", "--store", str(tmp_path / "store")]
    shown = small.orch(*command)
    assert "leftovers of Ray Train" in shown.stdout and "nothing was removed" in shown.stdout
    assert [*store.keys()] == [old, young]
    facts = small.facts(small.orch(*command, "--json"))
    assert facts == {"removed": 0, "litter": [{"why": "leftovers of Ray Train", "key": old, "bytes": 1000}]}
    assert small.facts(small.orch(*command, "--delete", "--json"))["removed"] == 1
    assert [*store.keys()] == [young]
    assert "is there in vain" in small.orch(*command).stdout


def test_repair_removes_what_cannot_be_used_and_nothing_else(used: Artifacts, tmp_path: Path) -> None:
    """Somebody cleaned a run's directory, and a record's files; two objects are no longer what they were."""
    store = used.store
    save(store, UNDER_WAY, 30, "train/study-9a9a9a9a/compgan-30")
    used.publish("judge", "e" * 20, tmp_path / "made", **FACTS)
    whole = {*store.keys()}
    for step in (40, 50):
        save(store, UNDER_WAY, step, f"train/study-1a2b3c4d/compgan-{step}")
    used.publish("finetune", "f" * 20, tmp_path / "made", **FACTS)
    store.delete("train/study-1a2b3c4d/compgan-40/state")
    store.put_bytes("train/study-1a2b3c4d/compgan-50/state", b"shorter")
    (file,) = used.record("finetune", "f" * 20).files.values()  # type: ignore[union-attr]
    store.delete(file.key)
    store.put_bytes(f"checkpoints/compgan/{'c' * 20}/00000060.json", b"{}")
    store.put_bytes(f"leases/compgan/{'c' * 20}/00000001", b"")
    damaged = {
        f"checkpoints/compgan/{'c' * 20}/00000040.json": "is gone",
        f"checkpoints/compgan/{'c' * 20}/00000050.json": "has 7 bytes instead of 8",
        f"checkpoints/compgan/{'c' * 20}/00000060.json": "it is no checkpoint",
        f"artifacts/finetune/{'f' * 20}/record.json": "is gone",
        f"leases/compgan/{'c' * 20}/00000001": "it is no lease",
    }
    found = {damage.key: damage.why for damage in find_damage(used)}
    assert found.keys() == damaged.keys()
    assert all(damaged[key] in why for key, why in found.items())
    before = {*store.keys()}
    shown = small.orch("repair", "--store", store.url)
    assert "nothing was changed" in shown.stdout and {*store.keys()} == before
    assert small.facts(small.orch("repair", "--delete", "--store", store.url, "--json"))["removed"]
    assert {*store.keys()} == before - damaged.keys() and whole <= {*store.keys()}
    assert [*find_damage(used)] == []
    assert Checkpoints(store, *UNDER_WAY).fetch_newest(tmp_path / "scratch", print) == 30
