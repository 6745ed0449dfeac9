"""The whole London set: every face found, and level by the measure of another detector."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compgan_core.data.importers.archives import open_source

cv2 = pytest.importorskip("cv2", reason="the extra prepare is not installed")

from orchestrator.prepare.prepare import prepare  # noqa: E402

pytestmark = pytest.mark.slow
DATA = Path(os.environ.get("COMPGAN_DATA", Path(__file__).parents[3] / "shared" / "data")) / "london_faces.tar"
PATTERN = "{expression}/{identity}"


@pytest.fixture(scope="module")
def london(tmp_path_factory):
    if not DATA.exists():
        pytest.skip(f"{DATA} is not there; set COMPGAN_DATA to its folder")
    output = tmp_path_factory.mktemp("london") / "out"
    return prepare(open_source(DATA), output, labels=PATTERN, workers=2), output


@pytest.fixture(scope="module")
def faces(london):
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(london[1].rglob("*.jpg"))]


def cascade(name):
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}/haarcascade_{name}.xml")


def test_all_204_faces_are_found(london, faces):
    summary, _ = london
    assert (summary.read, summary.kept, len(faces), summary.quarantined) == (204, 204, 204, ())


def test_each_crop_holds_one_upright_face_at_one_scale_in_one_place(faces):
    found = [cascade("frontalface_alt2").detectMultiScale(face, 1.03, 4, minSize=(100, 100)) for face in faces]
    assert {len(boxes) for boxes in found} == {1}
    left, top, width, height = np.concatenate(found).T
    assert width.std() / width.mean() < 0.04
    assert np.ptp(left + width / 2) < 10 and np.ptp(top + height / 2) < 20


def test_eyes_are_level_within_three_degrees(faces):
    """By a cascade that looks for each eye by itself. It is sure of both eyes in all crops but two."""
    eye, level = cascade("eye_tree_eyeglasses"), []
    for face in faces:
        x, y, width, height = eye.detectMultiScale(face[40:140], 1.05, 4, minSize=(30, 30), maxSize=(80, 80)).T
        middle = np.stack([x + width / 2, 40 + y + height / 2], axis=1)
        left, right = middle[middle[:, 0] < 118], middle[middle[:, 0] > 138]
        if len(left) == len(right) == 1:
            level.append(np.degrees(np.arctan2(*(right - left)[0][::-1])))
            assert np.all(np.abs((left + right)[0] / 2 - [127.5, 256 / 3]) < 6)
            assert 60 < np.hypot(*(right - left)[0]) < 90
    assert len(level) >= 200
    assert np.abs(level).max() < 3 and np.median(np.abs(level)) < 1


def test_killed_and_run_again_it_gives_the_same_and_does_no_file_twice(london, tmp_path):
    _, whole = london
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", "data", "prepare"]
    command += [str(DATA), str(tmp_path / "out"), "--labels", PATTERN, "--workers", "2", "--json"]
    journal = tmp_path / "out.partial/journal.jsonl"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 40:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    done = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True)[1:] if line.endswith(b"\n")]
    before = {
        name: (tmp_path / "out.partial" / name).stat().st_mtime_ns for name in (d["outcomes"][0]["face"] for d in done)
    }
    result = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(result.stdout.splitlines()[-1])["kept"] == 204
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    assert contents(tmp_path / "out") == contents(whole)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
