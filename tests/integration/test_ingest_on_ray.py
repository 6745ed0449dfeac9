"""Ingest through Ray Data and a real S3 server: the same data set as in one process, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from toy_faces import DRAWN, broken_at, truncated_at

from compgan_core.data.cache import Faces
from compgan_core.errors import DataError
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.bucket_source import open_anywhere
from orchestrator.datasets import add_dataset, import_dataset, verify_dataset
from orchestrator.ingest import Streamed, faces_recipe, make_faces

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def artifacts(s3_url: str, tmp_path: Path) -> Artifacts:
    return Artifacts(open_store(s3_url), NodeCache(tmp_path / "cache"))


def add(artifacts: Artifacts, rows: int, faces=DRAWN, name: str = "drawn", **more: bool):
    return add_dataset(artifacts, Streamed(faces, rows), name, source_format="procedural", **more)


def test_ray_makes_the_data_set_that_one_process_makes(ray_cluster: None, artifacts: Artifacts) -> None:
    counted: list[int] = []
    alone = add(artifacts, rows=12, name="alone")
    spread = add(artifacts, rows=4, name="spread", on_face=counted.append)
    assert spread.fingerprint == alone.fingerprint and counted == list(range(4, 37, 4))
    cache = make_faces(artifacts, spread.fingerprint, faces_recipe(8, ()))
    assert len(Faces.open(artifacts.fetch(cache))) == 36
    assert verify_dataset(artifacts, spread) == []


def test_a_tensor_cache_of_many_shards_is_made_on_ray(ray_cluster: None, artifacts: Artifacts) -> None:
    small = add(artifacts, rows=4)
    pieces = make_faces(artifacts, small.fingerprint, faces_recipe(8, ()))
    faces = Faces.open(artifacts.fetch(pieces))
    assert len(faces) == 36 and len(pieces.files) == 10
    assert faces.labels.key.tolist() == sorted(face.key for face in DRAWN())


def test_what_a_task_raises_on_purpose_arrives_as_it_was(ray_cluster: None, artifacts: Artifacts) -> None:
    with pytest.raises(DataError, match=r"^bad.png: the file is not an image; mend it"):
        add(artifacts, 4, partial(broken_at, 30))
    assert add(artifacts, 4, partial(broken_at, 30), keep_going=True).manifest.kept == 35

    with pytest.raises(DataError, match=r"^the archive is truncated$"):
        add(artifacts, 4, partial(truncated_at, 33))


def test_faces_are_imported_out_of_a_bucket(s3_url: str, artifacts: Artifacts, tmp_path: Path) -> None:
    source = open_store(f"{s3_url}-source")
    for face in DRAWN():
        source.put_bytes(f"{face.identity}/{face.pose}/{face.expression}/0.png", face.image_bytes)
    source.put_bytes("._junk.png", b"x")
    assert len([*open_anywhere(source.url).files()]) == 36
    dataset = import_dataset(artifacts, "labelled-tree", source.url, "tree")
    assert (dataset.manifest.kept, len(dataset.manifest.identities)) == (36, 3)
    with pytest.raises(DataError, match="no object under"):
        import_dataset(artifacts, "labelled-tree", f"{s3_url}-nothing", "tree")


IMPORT = """
import sys
from functools import partial
from pathlib import Path
from compgan_core.data.importers import procedural
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.datasets import add_dataset
from orchestrator.ingest import Streamed
from orchestrator.runtime.cluster import start_ray
start_ray(num_cpus=2, dashboard=False)
faces = partial(procedural.read, identities=20, expressions=("joy", "grief", "neutral"), size=64)
artifacts = Artifacts(open_store(sys.argv[1]), NodeCache(Path(sys.argv[2])))
print(add_dataset(artifacts, Streamed(faces, 12), "drawn", source_format="procedural").fingerprint)
"""


def test_an_import_that_is_killed_goes_on_where_it_was(s3_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORT, s3_url, str(tmp_path)]
    store = open_store(s3_url)
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def shards() -> set[str]:
        return {key for key in store.keys("artifacts/shard/") if key.endswith("record.json")}

    while len(shards()) < 3:
        assert child.poll() is None
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    written = {key: store.get_bytes(key) for key in shards()}
    assert 3 <= len(written) < 20 and not [*store.keys("datasets/")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(shards()) == 20
    assert {key: store.get_bytes(key) for key in written} == written
