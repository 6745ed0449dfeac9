from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compgan_core.errors import ConfigurationError, StorageError
from orchestrator.artifacts.artifacts import Artifacts, Record
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import Store

FILES = {"weights.safetensors": b"w" * 3000, "sub/metrics.json": b"{}", "empty": b""}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory that a stage has written."""
    for name, data in FILES.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "made"


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> Artifacts:
    return Artifacts(store, NodeCache(tmp_path / "cache"))


def publish(artifacts: Artifacts, directory: Path, fingerprint: str = "f00", **other: Any) -> Record:
    facts: dict[str, Any] = {
        "recipe": {"steps": 3},
        "inputs": {"split": "aa"},
        "metrics": {"top1": 0.5},
        "seconds": 1.5,
    }
    return artifacts.publish("compgan", fingerprint, directory, **facts | other)


def read(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_what_is_published_is_fetched_and_its_record_read_back(artifacts: Artifacts, made: Path) -> None:
    assert artifacts.record("compgan", "f00") is None
    record = publish(artifacts, made)
    assert artifacts.record("compgan", "f00") == record
    assert read(artifacts.fetch(record)) == FILES
    assert record.size_bytes == 3002 and record.recipe == {"steps": 3} and record.libraries["torch"]


def test_an_artifact_may_refer_to_files_of_another_which_outlive_it(artifacts: Artifacts, made: Path) -> None:
    part = publish(artifacts, made, "part")
    refer = {"of-part": part.files["weights.safetensors"]}
    whole = publish(artifacts, made / "sub", "whole", references=refer)
    assert read(artifacts.fetch(whole)) == {"metrics.json": b"{}", "of-part": FILES["weights.safetensors"]}
    assert artifacts.delete(whole) == 2
    assert artifacts.record("compgan", "whole") is None
    assert artifacts.read(part, "weights.safetensors") == FILES["weights.safetensors"]


def test_records_lists_whole_artifacts_of_one_stage_or_all(artifacts: Artifacts, made: Path) -> None:
    publish(artifacts, made, "b")
    publish(artifacts, made, "a")
    artifacts.store.put_bytes("artifacts/compgan/c/attempt/weights", b"without a record")
    artifacts.store.put_bytes("artifacts/compgan/d/attempt/record.json", b"a file of that name")
    assert [record.fingerprint for record in artifacts.records()] == ["a", "b"]
    assert [record.fingerprint for record in artifacts.records("compgan")] == ["a", "b"]
    assert list(artifacts.records("comp")) == []


def test_many_are_found_by_a_listing_as_few_are_one_by_one(
    artifacts: Artifacts, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(artifacts, made)
    artifacts.store.put_bytes("artifacts/compgan/f01/attempt/record.json", b"of a file that is called so")
    asked = [("compgan", "f00"), ("compgan", "f01"), ("compgan", "f02"), ("judge", "f00")]
    assert artifacts.recorded(asked) == {"f00"}
    monkeypatch.setattr("orchestrator.artifacts.artifacts.LIST_FROM", 2)
    assert artifacts.recorded(asked) == {record.fingerprint}


def test_of_two_that_publish_at_once_both_return_the_first_and_one_copy_stays(artifacts: Artifacts, made: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda seconds: publish(artifacts, made, seconds=seconds), (1.0, 2.0))
    assert one == two == artifacts.record("compgan", "f00")
    assert len(list(artifacts.store.keys("artifacts/"))) == len(FILES) + 1


def test_a_metric_that_json_cannot_hold_is_refused_before_the_upload(artifacts: Artifacts, made: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"metrics\.top1 is nan"):
        publish(artifacts, made, metrics={"top1": float("nan")})
    assert list(artifacts.store.keys()) == []


def test_a_file_damaged_in_the_store_is_named_with_both_hashes(artifacts: Artifacts, made: Path) -> None:
    record = publish(artifacts, made)
    entry = record.files["weights.safetensors"]
    artifacts.store.put_bytes(entry.key, b"v" * 3000)
    with pytest.raises(StorageError, match=f"weights.safetensors .* is damaged: expected 3000 bytes .*{entry.sha256}"):
        artifacts.fetch(record)
    artifacts.store.put_bytes(entry.key, FILES["weights.safetensors"])
    assert read(artifacts.fetch(record)) == FILES  # nothing of the failed fetch was kept


def test_a_file_damaged_on_the_way_is_read_again(
    artifacts: Artifacts, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(artifacts, made)
    get_file, damaged = artifacts.store.get_file, set()

    def flaky(key: str, path: Path) -> None:
        get_file(key, path)
        if key not in damaged:
            damaged.add(key)
            path.write_bytes(b"short")

    monkeypatch.setattr(artifacts.store, "get_file", flaky)
    assert read(artifacts.fetch(record)) == FILES and len(damaged) == len(FILES)


def test_a_missing_file_is_an_error_not_a_smaller_artifact(artifacts: Artifacts, made: Path) -> None:
    record = publish(artifacts, made)
    artifacts.store.delete(record.files["empty"].key)
    with pytest.raises(StorageError, match=r"has no object .*/empty"):
        artifacts.fetch(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"Invalid JSON.*delete it"),
        (lambda text: text.replace('"f00"', '"f01"').replace("/f00/", "/f01/"), "it describes compgan/f01"),
        (lambda text: json.dumps(json.loads(text) | {"extra": 1}), "extra"),
        (lambda text: text.replace('"sub/metrics.json"', '"../../escape"'), "not a plain relative path"),
        (lambda text: text.replace("artifacts/compgan/f00/", "checkpoints/compgan/f00/"), "lies outside"),
    ],
)
def test_a_damaged_record_is_refused(artifacts: Artifacts, made: Path, change: Any, message: str) -> None:
    publish(artifacts, made)
    key = "artifacts/compgan/f00/record.json"
    artifacts.store.put_bytes(key, change(artifacts.store.get_bytes(key).decode()).encode())
    with pytest.raises(StorageError, match=f"(?s)record.json in .* is damaged .*{message}"):
        artifacts.record("compgan", "f00")


CHILD = """
import pickle, sys, time
from pathlib import Path
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
dump, cache, made, mode = sys.argv[1:]
artifacts = Artifacts(pickle.load(open(dump, "rb")), NodeCache(Path(cache)))
store, log = artifacts.store, open(Path(dump).with_name("log"), "a", buffering=1)
if mode == "publish":
    def hang(key, data, **_):
        print("all files are up", flush=True)
        time.sleep(600)
    store.put_bytes = hang
    artifacts.publish("compgan", "f00", Path(made), recipe={}, inputs={}, metrics={}, seconds=1)
else:
    get_file = store.get_file
    def slow(key, path):
        log.write(key + "\\n")
        time.sleep(0.5)
        get_file(key, path)
    store.get_file = slow
    print(artifacts.fetch(artifacts.record("compgan", "f00")))
"""


def start(artifacts: Artifacts, made: Path, mode: str) -> subprocess.Popen[str]:
    dump = made.with_name("dump")
    dump.write_bytes(pickle.dumps(artifacts.store))
    command = [sys.executable, "-c", CHILD, str(dump), str(artifacts.cache.directory), str(made), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_fetch_at_once_download_once(artifacts: Artifacts, made: Path) -> None:
    publish(artifacts, made)
    children = [start(artifacts, made, "fetch") for _ in range(2)]
    places = [child.communicate(timeout=60)[0].strip() for child in children]
    assert places[0] == places[1] and read(Path(places[0])) == FILES
    assert len(made.with_name("log").read_text().splitlines()) == len(FILES)


def test_a_process_killed_while_fetching_leaves_nothing_that_looks_whole(artifacts: Artifacts, made: Path) -> None:
    record = publish(artifacts, made)
    child = start(artifacts, made, "fetch")
    log = made.with_name("log")
    while not (log.exists() and log.read_text()):
        assert child.poll() is None
    kill(child)
    assert {path.suffix for path in (artifacts.cache.directory / "compgan/f00").iterdir()} == {".lock", ".partial"}
    assert read(artifacts.fetch(record)) == FILES


def test_a_process_killed_while_publishing_leaves_no_record_and_the_next_one_succeeds(
    artifacts: Artifacts, made: Path
) -> None:
    child = start(artifacts, made, "publish")
    assert child.stdout and child.stdout.readline() == "all files are up\n"
    kill(child)
    assert len(list(artifacts.store.keys("artifacts/"))) == len(FILES)
    assert artifacts.record("compgan", "f00") is None and list(artifacts.records()) == []
    assert read(artifacts.fetch(publish(artifacts, made))) == FILES


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()
