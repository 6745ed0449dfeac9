from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
RAY = Path(find_spec("ray").origin).parent  # importing ray takes a second and is not needed
SCHEMA = json.loads((RAY / "autoscaler/ray-schema.json").read_text())


def load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", sorted(path.name for path in CLUSTER.glob("*.yaml")))
def test_cluster_file_is_what_ray_up_accepts(name: str) -> None:
    jsonschema.validate(load(name), SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(load(name) | {"max_worker": 3}, SCHEMA)


def test_every_machine_asks_for_the_token_and_the_dashboard_stays_on_loopback() -> None:
    config = load("on-prem.yaml")
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in commands[-1] for commands in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head[-1]
    assert "~/.ray/auth_token" in config["file_mounts"]
