"""Sweeps through the command line, out of a real S3 bucket on a real Ray: shared, resumed, extended, survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_study as small

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]
SHARED = ("pretrain", "classifier", "compgan")


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path) -> Iterator[str]:
    """A bucket with drawn faces, and a node cache of its own."""
    small.import_faces(s3_url, tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))
        yield s3_url


def command(url: str, directory: Path, over: str = "synth.count=0,1,3", seeds: int = 1, **settings: str) -> list[str]:
    field = over.partition("=")[0]
    chosen = {k: v for k, v in (small.SETTINGS | {"synth.pool": "4"} | settings).items() if k != field}
    sets = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    options = ["--data", "drawn", "--task", "ER-FE", "--preset", "tiny", "--shots", "1", "--seeds", str(seeds)]
    return ["sweep", *options, "--over", over, "--store", url, "--report", str(directory), "--json", *sets]


def runs(url: str) -> Counter[str]:
    """How many records there are of each kind of stage."""
    return Counter(record.stage for record in Artifacts(open_store(url), NodeCache(Path())).records())


def scores(facts: dict) -> dict[str, float]:
    return {json.dumps(line["values"]): line["mean"] for line in facts["leaderboard"]}


def test_a_count_sweep_trains_once_resumes_for_nothing_and_extends(bucket: str, tmp_path: Path) -> None:
    first = small.facts(small.orch(*command(bucket, tmp_path)))
    assert {line["state"] for line in first["leaderboard"]} == {"finished"} and len(first["leaderboard"]) == 3
    made = runs(bucket)
    assert [made[kind] for kind in SHARED] == [1, 1, 1]
    assert made["synthesis"] == 2  # of either generator
    assert (made["finetune"], made["validate"]) == (3, 4)  # the plain fine-tuning is also that of count 0
    assert made["evaluate"] <= 4  # the chosen and the baseline, plain and Comp-GAN
    before = {
        record.fingerprint: record.created for record in Artifacts(open_store(bucket), NodeCache(Path())).records()
    }
    again = small.facts(small.orch(*command(bucket, tmp_path)))
    assert scores(again) == scores(first) and runs(bucket) == made
    wider = small.facts(small.orch(*command(bucket, tmp_path, "synth.count=0,1,2,3")))
    assert wider["sweep"] == first["sweep"] and len(wider["leaderboard"]) == 4
    assert {k: v for k, v in scores(wider).items() if k in scores(first)} == scores(first)
    after = {
        record.fingerprint: record.created for record in Artifacts(open_store(bucket), NodeCache(Path())).records()
    }
    assert before.items() <= after.items() and [runs(bucket)[kind] for kind in SHARED] == [1, 1, 1]
    assert (tmp_path / first["sweep"] / "index.html").stat().st_size > 10_000


def test_a_configuration_that_diverges_ends_itself_and_nothing_else(bucket: str, tmp_path: Path) -> None:
    over = "compgan.generator_optimizer.lr=0.0002,1e30"
    facts = small.facts(small.orch(*command(bucket, tmp_path, over)))
    states = {line["values"]["compgan.generator_optimizer.lr"]: line for line in facts["leaderboard"]}
    assert states["0.0002"]["state"] == "finished"
    assert states["1e+30"]["state"] == "failed" and "before the update" in states["1e+30"]["failure"]


def test_a_sweep_that_is_killed_with_all_its_trials_ends_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while its trials train Comp-GANs of their own; what was recorded is not made again."""
    monkeypatch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))
    bucket = str(tmp_path / "store")
    small.import_faces(bucket, tmp_path / "cache")
    line = command(bucket, tmp_path, "mu.con=10,40", **{"compgan.schedule.steps": "90"})
    quick = [small.ORCH, *line, "--checkpoint-every", "0.5"]
    child = subprocess.Popen(quick, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = open_store(bucket)
    while not [key for key in store.keys("checkpoints/compgan/") if key.endswith(".json")]:
        assert child.poll() is None
        time.sleep(0.3)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    recorded = {record.fingerprint: record.created for record in Artifacts(store, NodeCache(Path())).records()}
    resumed = small.facts(small.orch(*line))
    after = {record.fingerprint: record.created for record in Artifacts(store, NodeCache(Path())).records()}
    assert recorded.items() <= after.items()
    undisturbed = f"{bucket}-undisturbed"
    small.import_faces(undisturbed, tmp_path / "cache")
    alone = small.facts(small.orch(*command(undisturbed, tmp_path, "mu.con=10,40", **{"compgan.schedule.steps": "90"})))
    assert scores(resumed) == scores(alone)


def test_optuna_searches_after_the_baseline_and_asha_looks_on(bucket: str, tmp_path: Path) -> None:
    search = ["--search", "optuna", "--scheduler", "asha", "--trials", "1"]
    facts = small.facts(small.orch(*command(bucket, tmp_path, "mu.con=log:20:80"), *search))
    assert len(facts["leaderboard"]) == 2 and {"mu.con": "40"} in [line["values"] for line in facts["leaderboard"]]


@pytest.mark.parametrize(
    ("over", "more", "sentence"),
    [
        ("lambda.expr=1,2", [], "did you mean"),
        ("mu.con=80:5", [], "reversed"),
        ("synth.count=-1,3", [], "synth.count"),
        ("synth.count=2000", [], "--allow"),
        ("mu.con=5,6", ["--metric", "gan_loss"], "no stage reports 'gan_loss'"),
        ("mu.con=5,6", ["--budget", "0.001"], "too little for one trial"),
        ("mu.con=5,6", ["--search", "annealing"], "grid, random, optuna"),
        ("mu.con=5:6", [], "a range, which a grid cannot go through"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_a_sentence(
    bucket: str, tmp_path: Path, over: str, more: list[str], sentence: str
) -> None:
    done = small.orch(*command(bucket, tmp_path, over), *more)
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("orch: ")]
    assert done.returncode == 2 and sentence in line and "Traceback" not in done.stderr
