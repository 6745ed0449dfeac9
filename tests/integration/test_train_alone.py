"""A whole study in one process that has neither Ray nor DeepSpeed nor an S3 client."""

import json
import os
import subprocess
import sys

import pytest
from small_study import facts, import_faces, options, orch

FEW_STEPS = {"compgan.schedule.steps": "2"}
FORBIDDEN = ("ray", "deepspeed", "boto3", "botocore", "s3fs", "fsspec", "typer", "rich", "filelock", "jinja2")
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN}: raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from jobs.train_alone import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    import_faces(str(root / "store"), root / "cache")
    return root


def alone(root, *more):
    environment = os.environ | {"COMPGAN_CACHE": str(root / "cache")}
    command = [
        sys.executable,
        "-c",
        WITHOUT,
        *options(str(root / "store"), **FEW_STEPS | dict(more)),
        "--device",
        "cpu",
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)


@pytest.mark.integration
def test_a_study_without_ray_makes_the_records_of_orch_train(store):
    done = facts(alone(store))
    assert {stage["state"] for stage in done["stages"]} == {"run"}
    judged = {"judge", "quality"} | {f"fidelity {kind} #0" for kind in ("degraded", "exp", "pose")}
    assert done["metrics"].keys() == {"plain", "degraded", "exp", "compgan"} | judged
    plan = facts(orch("plan", *options(str(store / "store"), **FEW_STEPS), "--json"))
    assert {stage["state"] for stage in plan["stages"]} == {"cached"}


@pytest.mark.integration
def test_a_wrong_setting_is_a_sentence_and_the_exit_code_of_orch(store):
    done = alone(store, ("variants", json.dumps(["plane"])))
    assert done.returncode == 2
    assert done.stderr.startswith("train_alone: no variant 'plane'")
