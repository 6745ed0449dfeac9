"""The whole road, through the command line, out of a real S3 bucket on a real Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import small_study as small
from by_hand import Head, cluster, free_ports, submit

from orchestrator.artifacts.store import open_store
from orchestrator.store_server import StoreServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]


def test_a_study_runs_every_stage_and_says_what_the_faces_are_worth(trained: dict, bucket: str) -> None:
    assert {stage["state"] for stage in trained["stages"]} == {"run"}
    judged = {"judge", "quality"} | {f"fidelity {kind} #0" for kind in ("degraded", "exp", "pose")}
    assert set(trained["metrics"]) == {"plain", "degraded", "exp", "compgan"} | judged
    assert {"base", "novel", "novel_only", "harmonic", "pooled"} <= set(trained["metrics"]["compgan"]["means"])
    assert all(map(open_store(bucket).exists, trained["records"]))
    assert all(Path(picture).stat().st_size > 10_000 for picture in trained["pictures"])


def test_no_secret_is_in_any_object_of_the_store(trained: dict, bucket: str, s3: StoreServer) -> None:
    store, secrets = open_store(bucket), (s3.secret_key.encode(), os.environ["RAY_AUTH_TOKEN"].encode())
    keys = [*store.keys()]
    assert any(key.endswith("record.json") for key in keys)
    assert [key for key in keys if any(secret in store.get_bytes(key) for secret in secrets)] == []


def test_its_ledger_says_that_it_is_done_and_where_it_ran(trained: dict, bucket: str) -> None:
    runs = small.facts(small.orch("ls", "--store", bucket, "--json"))["runs"]
    run = next(run for run in reversed(runs) if run["state"] == "done")
    assert run["progress"] == "{0}/{0} stages".format(len(trained["stages"]))
    shown = small.facts(small.orch("show", run["run"], "--store", bucket, "--json"))
    assert {stage["state"] for stage in shown["status"]["stages"].values()} == {"done"}
    assert [worker["rank"] for worker in shown["status"]["workers"]] == [0]
    assert shown["status"]["checkpoint"] is None and shown["head"]["recipe"]["split"]["task"] == "ER-FE"


def test_run_again_it_prints_the_same_from_the_records_without_ray(trained: dict, bucket: str) -> None:
    options = small.options(bucket, **small.LONG)
    again = small.facts(small.orch_process("train", *options, "--address", "10.255.255.1:1", "--json"))
    assert {stage["state"] for stage in again["stages"]} == {"cached"}
    assert again["metrics"] == trained["metrics"]


def test_checkpoints_go_once_their_stage_is_recorded(trained: dict, bucket: str) -> None:
    assert list(open_store(bucket).keys("checkpoints/")) == []


def test_a_plan_touches_nothing_and_shows_what_a_changed_setting_would_run(trained: dict, bucket: str) -> None:
    before = list(open_store(bucket).keys())
    options = small.options(bucket, **small.LONG, **{"finetune.novel_share": "0.2"})
    plan = small.facts(small.orch("plan", *options, "--json"))
    assert {s["name"].split()[0] for s in plan["stages"] if s["state"] == "run"} == {"finetune", "head", "evaluate"}
    assert list(open_store(bucket).keys()) == before


def test_two_workers_with_zero_2_make_the_same_stages(ray_cluster: None, bucket: str) -> None:
    options = small.options(bucket, **{"pretrain.schedule.steps": "3", "variants": '["plain"]'})
    two = small.facts(small.orch("train", *options, "--workers", "2", "--zero", "2", "--json"))
    plan = small.facts(small.orch("plan", *options, "--json"))
    assert {s["fingerprint"] for s in two["stages"]} == {s["fingerprint"] for s in plan["stages"]}
    assert {s["state"] for s in plan["stages"]} == {"cached"}


def test_a_reproduction_runs_on_ray(ray_cluster: None, bucket: str, tmp_path: Path) -> None:
    """The supervised runs of Sec. 5.1; studies of tasks run as `orch train` runs them, which other tests see."""
    options = ["--data", "drawn", "--tables", "2", "--seeds", "1", "--preset", "tiny", "--store", bucket]
    few = [part for key in ("faces.max_expressions=5", "supervised.schedule.epochs=1") for part in ("--set", key)]
    done = small.facts(small.orch("reproduce", *options, *few, "--report", str(tmp_path), "--json"))
    assert not done["failures"] and done["stage_runs"]["to_run"] >= 6
    rows = next(table["rows"] for table in done["tables"] if table["name"] == "Supervised on drawn")
    assert {row for row, (mean,) in rows.items() if mean is None} == {"Comp-GAN-Cls, pre-trained"}  # on nothing


def test_a_job_submitted_to_the_local_cluster_file_makes_the_records_that_orch_would_have_made(
    trained: dict, bucket: str, by_hand: str
) -> None:
    """`ray job submit` on what `ray up cluster/local.yaml` runs."""
    options = small.options(bucket, **small.LONG, **{"finetune.novel_share": "0.3", "variants": '["plain"]'})
    done = submit(by_hand, "python", "jobs/train_compgan.py", *options, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    refused = submit(by_hand, "true", RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0 and "authentication is enabled" in refused.stderr
    assert small.orch("cluster", "idle", "--minutes", "0", "--address", by_hand).returncode == 0
    assert small.orch("cluster", "idle", "--minutes", "9", "--address", by_hand).returncode == 1
    (port,) = free_ports(1)
    nowhere = f"http://127.0.0.1:{port}"
    assert small.orch("cluster", "idle", "--address", nowhere).returncode == 4  # a worker, where no dashboard is
    line = next(text for text in done.stdout.splitlines() if re.match(r'\{"study"', text))
    plan = small.facts(small.orch("plan", *options, "--json"))
    assert {s["fingerprint"] for s in json.loads(line)["stages"]} == {s["fingerprint"] for s in plan["stages"]}
    assert {s["state"] for s in plan["stages"]} == {"cached"}


@pytest.fixture(scope="module")
def fake_nodes(trained: dict) -> Iterator[Head]:
    """cluster/fake-nodes.yaml: one CPU on the head, and one on each node that its autoscaler may bring."""
    with cluster("fake-nodes", "") as head:
        yield head


def test_nodes_come_for_a_job_that_asks_for_more_workers_than_there_are(fake_nodes: Head, bucket: str) -> None:
    options = small.options(bucket, **{"compgan.schedule.steps": "6", "variants": '["plain"]'})
    done = submit(fake_nodes.dashboard, "python", "jobs/train_compgan.py", *options, "--workers", "2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [worker["rank"] for worker in newest_run(bucket)["workers"]] == [0, 1]


@pytest.mark.soak
def test_with_fewer_workers_it_goes_on_when_a_node_is_lost_and_with_more_when_one_comes(
    fake_nodes: Head, bucket: str
) -> None:
    options = small.options(bucket, **{"compgan.schedule.steps": "600", "variants": '["plain"]'})
    options += ["--workers", "2", "--min-workers", "1", "--checkpoint-every", "1", "--address", fake_nodes.gcs]
    # Not as a job: pretended nodes share a directory, and each removes there what a job brought along.
    command = [small.ORCH, "train", *options]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    alone_until = None
    while run.poll() is None:
        status = newest_run(bucket)
        if status["current"] == "compgan" and len(status["workers"]) == 2 and status["checkpoint"]:
            step = status["checkpoint"]["step"]
            alone_until = step if alone_until is None else alone_until
            if step > alone_until:  # two have trained
                pretended_node().kill()
                break
        time.sleep(0.2)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    grown, lost = (said.find(what) for what in ("another number of workers: 2", "restarting from the last checkpoint"))
    assert 0 < grown < lost, said
    assert list(open_store(bucket).keys("checkpoints/")) == []


def newest_run(bucket: str) -> dict:
    """Its status, as anybody can see it."""
    runs = small.facts(small.orch("ls", "--store", bucket, "--json"))["runs"]
    return small.facts(small.orch("show", runs[0]["run"], "--store", bucket, "--json"))["status"]


def pretended_node() -> psutil.Process:
    """The raylet of the newest node that is not a head."""
    named = [(p, " ".join(p.cmdline())) for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    numbered = [(re.search(r"--node_id=f{50,}(\d{5})", line), p) for p, line in named]
    return max((match[1], p) for match, p in numbered if match and int(match[1]))[1]


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        (["--data", "drawm"], 2, "there is no dataset 'drawm' .* did you mean drawn"),
        (["--task", "ER-FF"], 2, "ER-SS, ER-FID, ER-ZID, ER-FP, ER-ZP, ER-FE"),
        (["--set", "compgan.schedule.step=3"], 2, "did you mean compgan.schedule.steps"),
        (["--set", "compgan"], 2, "write --set KEY=VALUE"),
        (["--zero", "3", "--set", "seed=9"], 2, "ZeRO stage 3 is not supported"),
        (["--shots", "99"], 2, "99 shots were asked for"),
        (["--store", "s3://no-such-bucket-here"], 3, "no-such-bucket-here"),
        (["--workers", "64"], 2, "batches of 2, which do not divide over 64 workers"),
        (
            ["--workers", "4", "--set", "compgan.schedule.batch=4"],
            4,
            "asked 4 workers x 1 CPU = 4 CPU, the cluster has",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_its_exit_code(
    ray_cluster: None, bucket: str, changes: list[str], code: int, sentence: str
) -> None:
    done = small.orch("train", *small.options(bucket), *changes)
    assert done.returncode == code, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("orch: ")]
    assert re.search(sentence, line)
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_ends_the_run_with_its_name_and_exit_code(ray_cluster: None, bucket: str) -> None:
    done = small.orch("train", *small.options(bucket, **{"pretrain.optimizer.lr": "1e30"}))
    assert done.returncode == 6, done.stderr
    assert re.search(r"orch: .* is (nan|inf) on rank 0 at step \d+, before the update", done.stderr)
