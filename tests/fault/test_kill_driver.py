"""The driver is killed, and with it the Ray that it had started; the same command goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import toy_training as toy

from compgan_core.training.runtime import load_state

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def drive() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start the toy's driver, in a Ray of its own, on a store."""
    directory = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, for the Unix sockets in it
    drivers = []

    def start(store: Path, pause_s: float) -> subprocess.Popen:
        command = [sys.executable, toy.__file__, str(store), directory, f"--pause-s={pause_s}"]
        drivers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.wait()
    shutil.rmtree(directory)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def result(store: Path) -> dict[str, torch.Tensor]:
    return load_state(store / toy.RESULT)[0]


def test_the_same_command_resumes_after_the_driver_was_killed_and_changes_no_bit(
    drive: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    killed = drive(store, pause_s=0.2)
    wait_for(store / "checkpoints" / toy.STAGE / toy.FINGERPRINT / "00000010.json")
    killed.kill()
    killed.wait()
    assert not (store / toy.RESULT).exists()

    said, _ = drive(store, pause_s=0).communicate(timeout=120)
    assert any(f"continuing from the checkpoint at step {step}" in said for step in (10, 15))

    drive(tmp_path / "undisturbed", pause_s=0).communicate(timeout=120)
    expected, found = result(tmp_path / "undisturbed"), result(store)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
