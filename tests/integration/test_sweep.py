"""Sweeps through the command line, on a real Ray: shared, resumed, extended, and refused in a sentence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import small_study as small
import small_sweep
from ray.util.placement_group import placement_group_table
from small_sweep import records, scores

from orchestrator.artifacts.store import open_store

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]
GIB = 1 << 30


def test_a_count_sweep_trains_once_resumes_for_nothing_and_extends(
    undisturbed_counts: dict, counts_store: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPGAN_CACHE", str(drawn / "cache"))
    first, command = undisturbed_counts, small_sweep.command
    assert {line["state"] for line in first["leaderboard"]} == {"finished"} and len(first["leaderboard"]) == 3
    made = Counter(stage for stage, _ in records(counts_store))
    assert [made[kind] for kind in ("pretrain", "classifier", "compgan")] == [1, 1, 1]
    assert made["synthesis"] == 2  # of either generator
    assert (made["finetune"], made["validate"]) == (3, 4)  # the plain fine-tuning is also that of count 0
    assert made["evaluate"] <= 4  # the chosen and the baseline, plain and Comp-GAN
    before = records(counts_store)
    again = small.facts(small.orch(*command(counts_store, tmp_path)))
    assert scores(again) == scores(first) and records(counts_store) == before
    wider = small.facts(small.orch(*command(counts_store, tmp_path, "synth.count=0,1,2,3")))
    assert wider["sweep"] == first["sweep"] and len(wider["leaderboard"]) == 4
    assert scores(first).items() <= scores(wider).items()
    after = records(counts_store)
    assert before.items() <= after.items() and sum(stage == "compgan" for stage, _ in after) == 1
    assert (tmp_path / first["sweep"] / "index.html").stat().st_size > 10_000


def test_a_configuration_that_diverges_ends_itself_and_nothing_else(prepared: Path, tmp_path: Path) -> None:
    over = "compgan.generator_optimizer.lr=0.0002,1e30"
    facts = small.facts(small.orch(*small_sweep.command(prepared, tmp_path, over)))
    states = {line["values"]["compgan.generator_optimizer.lr"]: line for line in facts["leaderboard"]}
    assert states["0.0002"]["state"] == "finished"
    assert states["1e+30"]["state"] == "failed" and "before the update" in states["1e+30"]["failure"]


def test_optuna_searches_after_the_baseline_and_asha_looks_on(prepared: Path, tmp_path: Path) -> None:
    search = ["--search", "optuna", "--scheduler", "asha", "--trials", "1"]
    facts = small.facts(small.orch(*small_sweep.command(prepared, tmp_path, "mu.con=log:20:80"), *search))
    assert len(facts["leaderboard"]) == 2 and {"mu.con": "40"} in [line["values"] for line in facts["leaderboard"]]
    assert all(line["seconds"] > 0 for line in facts["leaderboard"])


@pytest.mark.parametrize("trials", [4, pytest.param(64, marks=pytest.mark.soak)])
def test_many_trials_at_once_share_what_they_have_in_common_in_bounded_memory(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    """Configurations of one Comp-GAN, submitted together, run two at a time out of a bucket."""
    monkeypatch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))
    small.import_faces(s3_url, tmp_path / "cache")
    shares = ",".join(f"{(i + 1) / (trials // 4 + 1):.3f}" for i in range(trials // 4))
    more = ["--over", f"finetune.novel_share={shares}", "--concurrent", "2"]
    with small_sweep.Memory() as memory:
        facts = small.facts(small.orch(*small_sweep.command(s3_url, tmp_path, "synth.count=1,2,3,4"), *more))
    assert len(facts["leaderboard"]) == trials
    assert {line["state"] for line in facts["leaderboard"]} == {"finished"}
    made = Counter(stage for stage, _ in records(s3_url))
    assert (made["compgan"], made["synthesis"]) == (1, 2)
    assert made["finetune"] == trials + trials // 4  # and the plain ones
    turns = [key for key in open_store(s3_url).keys("leases/") if not key.endswith(".beat")]
    assert turns and {key.rpartition("/")[2] for key in turns} == {"00000001"}  # no stage was begun twice
    print(f"{trials} trials: {memory.most_processes} processes, {memory.most_bytes / GIB:.2f} GiB at most")
    assert memory.most_trials <= 3  # two, and one that is being replaced
    assert memory.most_bytes < 4 * GIB


def test_a_trial_of_two_workers_is_a_run_of_ray_train_and_leaves_no_reservation(
    prepared: Path, undisturbed_weights: dict, tmp_path: Path
) -> None:
    """Its own process is killed while they train: it starts again, and gets the resources that they had."""
    with small_sweep.Killer(prepared, lambda owner: small_sweep.trial_process()) as killer:
        done = small.orch(*small_sweep.command(prepared, tmp_path, "mu.con=10"), "--workers", "2")
    facts = small.facts(done)
    assert killer.killed and "restarted" in done.stderr
    assert small_sweep.continued_at(done.stderr) >= killer.step > 0
    assert [line["state"] for line in facts["leaderboard"]] == ["finished"]
    assert scores(facts).items() <= scores(undisturbed_weights).items()
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--workers", "64"],
            "1 x 64 workers for 1 trials at once: asked 64 workers x 1 CPU = 64 CPU, the cluster has 2",
        ),
        (["--workers", "2", "--concurrent", "2"], "asked 4 workers x 1 CPU = 4 CPU, the cluster has 2 CPU"),
    ],
)
def test_trials_that_can_never_be_placed_are_refused_with_the_arithmetic_before_anything_starts(
    prepared: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    before = records(prepared)
    done = small.orch(*small_sweep.command(prepared, tmp_path, "mu.con=5,6"), *more)
    assert done.returncode == 4 and sentence in done.stderr and records(prepared) == before


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
    prepared: Path, tmp_path: Path, over: str, more: list[str], sentence: str
) -> None:
    done = small.orch(*small_sweep.command(prepared, tmp_path, over), *more)
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("orch: ")]
    assert done.returncode == 2 and sentence in line and "Traceback" not in done.stderr
