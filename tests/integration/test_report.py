"""The page of a run: made of records and the ledger, looked at with a real browser."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import SCREENS, browser, looked_at
from PIL import Image
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "unit"))
import run_ledger as told
import sweep_records as sweeps

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.monitor.keeper import keep
from orchestrator.monitor.report import FRAMES, write_report
from orchestrator.monitor.runs import RunHead, faces_key
from orchestrator.monitor.tensorboard import write_tensorboard
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.ledger import TestTable
from orchestrator.sweeps.report import write_report as write_sweep_report

pytestmark = pytest.mark.integration
FIELDS = ("lambda.exp", "mu.con", "mu.exp")
STEPS, LABELS = 10_000, [f"expression {i}" for i in range(54)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, RunHead]:
    """A finished run with a history of 10,000 steps, 54 expressions and more pictures than fit a page."""
    directory = tmp_path_factory.mktemp("run")
    artifacts = Artifacts(open_store(directory / "store"), NodeCache(directory / "cache"))
    head = told.head(price_per_hour=12.5)
    rng = np.random.default_rng(0)
    for stage in head.stages:
        out = directory / stage.name
        out.mkdir()
        if stage.kind in ("pretrain", "compgan"):
            names = ["pixel", "discriminator", "grad_norm_pose", *(f"term_{i}" for i in range(12))]
            rows = [
                {"step": s, **{n: 1 + math.exp(-s / 900) + 0.01 * math.sin(s) for n in names}} for s in range(STEPS)
            ]
            (out / "history.json").write_text(json.dumps(rows))
        if stage.kind == "evaluate":
            counts = rng.integers(0, 9, (54, 54)) + 30 * np.eye(54, dtype=np.int64)
            np.savez(out / "confusion.npz", base=counts, novel=counts, novel_only=np.zeros_like(counts))
            (out / "expressions.json").write_text(json.dumps(LABELS))
        if stage.kind == "quality":
            features = {"identity": torch.arange(9), "source": torch.randn(9, 32)}
            save_file(
                {**features, "pose": torch.randn(9, 20, 32), "exp": torch.randn(9, 20, 32)},
                out / "identities.safetensors",
            )
        inputs = {name: "f" * 16 for name in stage.inputs}
        metrics = {"novel": 40.0, "novel_only": 55.5, "base": 80.0} if stage.kind == "evaluate" else {}
        artifacts.publish(stage.kind, stage.fingerprint, out, recipe={}, inputs=inputs, metrics=metrics, seconds=1.5)
    compgan = next(stage for stage in head.stages if stage.kind == "compgan")
    for step in range(250, STEPS + 1, 250):
        picture = io.BytesIO()
        noise = rng.integers(0, 255, (6 * 66, 9 * 66, 3), dtype=np.uint8)  # harder to compress than any faces
        Image.fromarray(noise).save(picture, "JPEG", quality=92)
        artifacts.store.put_bytes(faces_key(compgan.fingerprint, step), picture.getvalue())
    with keep(artifacts.store, head) as tell:
        for event in (told.worker(0), told.stage("compgan", "running"), told.stage("compgan", "done", 1.5)):
            tell(event)
    return artifacts, head


@pytest.fixture(scope="module")
def page(run: tuple[Artifacts, RunHead], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(*run, tmp_path_factory.mktemp("page") / "report.html")


def test_a_long_history_and_many_pictures_stay_under_5_mb(run: tuple[Artifacts, RunHead], page: Path) -> None:
    assert page.stat().st_size < 5e6
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)  # no network
    for record in ("40.0", "55.5", "80.0", "12.5", told.head().command, *(s.fingerprint for s in run[1].stages)):
        assert record in text
    assert text.count('<tr id="') == len(told.NAMES)


def test_curves_keep_their_first_and_last_value_and_their_range() -> None:
    from orchestrator.monitor.report import POINTS, curves

    (curve,) = curves([{"step": s, "loss": float(s)} for s in range(STEPS)])
    assert (curve.low, curve.high, curve.last) == (0.0, STEPS - 1.0, STEPS - 1.0)
    assert curve.path.startswith("M0.0 100.0") and curve.path.endswith("300.0 0.0")
    assert curve.path.count("L") <= POINTS + 1


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 64 trials over three fields, three seeds each, with a reading of the test rows."""
    choices = ("0", "5", "10", "40")
    values = [dict(zip(FIELDS, chosen, strict=True)) for chosen in product(choices, choices, choices)]
    rng = np.random.default_rng(0)
    trials = [sweeps.trial(v, [30 + 0.2 * float(v["mu.con"]) + x for x in rng.normal(0, 2, 3)]) for v in values]
    test = TestTable(chosen=values[-1], rows={"chosen": trials[-1].results, "baseline": trials[0].results})
    directory = tmp_path_factory.mktemp("sweep")
    write_sweep_report(directory, Findings(sweeps.head(*FIELDS), tuple(trials), test, {}))
    return directory / "index.html"


@browser
@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_in_a_browser_the_slider_moves_pictures_load_and_text_can_be_read(
    page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    found = looked_at(page, tmp_path, width, dark)
    assert found["moved"] and found["step"] == "250"
    assert found["shades"] > 3  # of confusions


@browser
@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_the_page_of_64_trials_opens_at_once_and_can_be_read(
    sweep_page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    assert sweep_page.stat().st_size < 5e6
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', sweep_page.read_text())  # no network
    looked_at(sweep_page, tmp_path, width, dark)


def test_tensorboard_gets_every_scalar_and_picture_once_however_often_it_is_written(
    run: tuple[Artifacts, RunHead], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.monitor.report.ROWS", 50)
    for _ in range(2):
        write_tensorboard(*run, tmp_path / "events")
    (file,) = (tmp_path / "events").iterdir()
    content = file.read_bytes()
    assert content.count(b"compgan/faces") == STEPS // 250
    assert content.count(b"compgan/pixel") == 50
    assert FRAMES < STEPS // 250
