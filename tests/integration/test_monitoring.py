"""The shipped Prometheus rules and Grafana dashboards, against a real Prometheus that scrapes a real Ray."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import small_study as small
import toy_training as toy
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from compgan_core.errors import DivergenceError
from compgan_core.training.stopwatch import PARTS
from orchestrator.artifacts.store import open_store
from orchestrator.monitor.runs import Runs

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


class Looking(threading.Thread):
    """Asks for every query of a dashboard while the block lasts; `filled` are those that had data."""

    def __init__(self, query: Query, dashboard: str, **variables: str):
        super().__init__(daemon=True)
        self.titles = {
            t["expr"]: p["title"] for p in panels(MONITORING / f"grafana/{dashboard}.json") for t in p["targets"]
        }
        self.query, self.variables = query, variables
        self.filled: set[str] = set()
        self.ended = threading.Event()

    def __enter__(self) -> Looking:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            for expression in self.titles.keys() - self.filled:
                if self.query(_with(expression, self.variables)):
                    self.filled.add(expression)

    @property
    def empty(self) -> set[str]:
        return {self.titles[expression] for expression in self.titles.keys() - self.filled}


def _with(expression: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        expression = expression.replace(f'="${name}"', f'=~"{value}"')
    return expression


class Watchers(threading.Thread):
    """One attaches as soon as there is a run, and is killed; the next one stays, and its last line is `last`."""

    def __init__(self, store: str):
        super().__init__(daemon=True)
        self.store, self.last = store, ""
        self.killed = False

    def run(self) -> None:
        while not Runs(open_store(self.store)).ids():
            time.sleep(0.2)
        command = [small.ORCH, "watch", "--store", self.store, "--every", "0.2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout is not None
            self.killed = any(line.startswith("compgan: running") for line in first.stdout)
            first.kill()
        self.last = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-1]


def test_a_real_run_fills_every_panel_of_its_dashboard_and_watchers_come_and_go(
    query: Query, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPGAN_CACHE", str(drawn / "cache"))
    store = shutil.copytree(drawn / "store", tmp_path / "store")
    options = small.options(
        str(store), **{"compgan.schedule.steps": "120", "classifier.schedule.steps": "150", "variants": '["plain"]'}
    )
    watchers = Watchers(str(store))
    watchers.start()
    with Looking(query, "run", run=".*-er-fe-.*") as run, Looking(query, "cluster") as cluster:
        small.facts(small.orch("train", *options, "--checkpoint-every", "2", "--json"))
    watchers.join(WAIT_S)
    assert watchers.killed and watchers.last.endswith(": done")
    assert run.empty == {"Store: requests asked again"}  # the store of this test never fails
    assert cluster.empty <= {"GPU", "GPU memory used", "Alerts"}
    for rule in ALERTS:
        query(rule["expr"])
    parts = {row["metric"]["part"] for row in query("last_over_time(ray_compgan_step_seconds[10m])")}
    assert parts == set(PARTS)


def test_a_sweep_fills_every_panel_of_its_dashboard(query: Query, tmp_path: Path) -> None:
    from orchestrator.runtime.cluster import Workers
    from orchestrator.runtime.ray_train import run
    from orchestrator.runtime.ray_tune import Trials, numbered, place_trials, run_trials

    with Looking(query, "sweep", sweep="watched-grid") as sweep:
        run(toy.shared, name="sweep-watched", workers=Workers(), store=open_store(tmp_path))
        settings = Trials(concurrent=1)
        where = {"directory": tmp_path / "tune", "settings": settings, "placement": place_trials(settings, Workers())}
        run_trials(toy.trial, {"index": numbered(2)}, name="watched-grid", **where)
        time.sleep(3)  # Prometheus sees the last of them, and a change of what had been
    assert not sweep.empty


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
def test_grafanas_schema_knows_all_that_a_dashboard_says(dashboard: Path) -> None:
    """Grafana generates these classes from its schema. What they do not know does not come back out of them."""
    register_default_plugins()
    text = dashboard.read_text()
    board = json.loads(text)
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    assert [*_unknown(board, known)] == []
    misspelt = json.loads(text.replace('"legendFormat"', '"legendFormt"').replace('"stacking"', '"stackng"'))
    lost = " ".join(_unknown(misspelt, json.loads(JSONEncoder().encode(Dashboard.from_json(misspelt)))))
    assert "legendFormt" in lost and ("stackng" in lost) == ('"stacking"' in text)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["targets"] and all(t["datasource"]["uid"] == "${datasource}" for t in panel["targets"])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def _unknown(said: object, known: object, place: str = "") -> Iterator[str]:
    if isinstance(said, dict):
        for name, value in said.items():
            found = known.get(name) if isinstance(known, dict) else None
            yield from _unknown(value, found, f"{place}.{name}")
    elif isinstance(said, list) and isinstance(known, list) and len(said) == len(known):
        for i, value in enumerate(said):
            yield from _unknown(value, known[i], f"{place}[{i}]")
    elif said != known:
        yield place
