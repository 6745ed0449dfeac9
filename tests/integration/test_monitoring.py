"""The shipped Prometheus rules and Grafana dashboards, against a real Prometheus that scrapes a real Ray."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import toy_training as toy
import yaml

from compgan_core.errors import DivergenceError
from orchestrator.artifacts.store import open_store

MONITORING = Path(__file__).parents[2] / "cluster/monitoring"
DASHBOARDS = sorted((MONITORING / "grafana").glob("*.json"))
ALERTS = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
WAIT_S = 40

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not shutil.which("promtool"), reason="needs Prometheus: apt-get install prometheus"),
]

Query = Callable[[str], list[dict]]


def panels(dashboard: Path) -> Iterator[dict]:
    yield from json.loads(dashboard.read_text())["panels"]


@pytest.fixture(scope="module")
def query(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Asks a Prometheus with the shipped configuration, but for the place where it finds Ray, and its pace."""
    import ray

    directory, node = tmp_path_factory.mktemp("prometheus"), ray.nodes()[0]
    found = [{"targets": [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]}]
    (directory / "nodes.json").write_text(json.dumps(found))
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(directory / "nodes.json")]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (directory / "log").open("w") as log:
        server = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)

    def ask(expression: str) -> list[dict]:
        url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # 400 for one that does not parse
            return json.load(answer)["data"]["result"]

    try:
        until(lambda: ask("up == 1"))
        yield ask
    finally:
        server.terminate()
        server.wait(20)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if condition():
                return
        except OSError:  # it has not begun to listen
            pass
        assert time.monotonic() < deadline, condition
        time.sleep(0.3)


def test_the_rules_wait_for_what_they_say() -> None:
    for command in ("check config {}/prometheus.yml", "check rules {}/alerts.yml"):
        subprocess.run(["promtool", *command.format(MONITORING).split()], check=True)
    subprocess.run(["promtool", "test", "rules", Path(__file__).with_name("alerts_test.yml")], check=True)


def test_each_query_is_answered_and_a_real_run_fills_its_dashboard(query: Query, tmp_path: Path) -> None:
    from orchestrator.runtime.cluster import Workers
    from orchestrator.runtime.ray_train import run

    filled: set[str] = set()
    expressions = {t["expr"]: p["title"] for d in DASHBOARDS for p in panels(d) for t in p["targets"]}

    def look(event: dict) -> None:
        if event["kind"] == "progress" and event["step"] % 4 == 0:
            for expression in expressions:
                if query(expression.replace("$run", "watched").replace("$sweep", "watched")):
                    filled.add(expression)

    body = partial(toy.train, pause_s=0.5)
    workers = Workers(num_workers=1, checkpoint_every_steps=4)
    run(body, name="toy", workers=workers, store=open_store(tmp_path), on_event=look, run_id="watched", task="ER-FE")
    titles = {expressions[expression] for expression in filled}
    of_a_run = {"Progress", "Losses", "Age of the last step and of the last checkpoint", "Checkpoints"}
    assert titles >= of_a_run | {"Saving a checkpoint", "Nodes that answer", "CPUs and GPUs in use"}
    for rule in ALERTS:
        query(rule["expr"])


def test_a_stall_and_a_loss_that_is_not_finite_raise_their_alerts(query: Query, tmp_path: Path) -> None:
    from orchestrator.runtime.cluster import Workers
    from orchestrator.runtime.metrics import Exporter
    from orchestrator.runtime.ray_train import run

    Exporter("stalled").set("compgan_last_step_timestamp_seconds", time.time() - 400)
    body = partial(toy.train, accident="diverged", at_step=1)
    with pytest.raises(DivergenceError):
        run(body, name="toy", workers=Workers(), store=open_store(tmp_path), run_id="diverged")
    for alert, who in (("StalledStep", "stalled"), ("NonFiniteLoss", "diverged")):
        until(partial(query, f'ALERTS{{alertname="{alert}",run="{who}",alertstate="firing"}}'))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_have_what_grafana_asks_for(dashboard: Path) -> None:
    """Grafana's own schema cannot be had from a package registry."""
    board = json.loads(dashboard.read_text())
    assert board["uid"].startswith("compgan-") and board["title"] and board["schemaVersion"] >= 39
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["targets"] and all(t["datasource"]["uid"] == "${datasource}" for t in panel["targets"])
        assert set(panel["gridPos"]) == {"x", "y", "w", "h"} and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
