"""`orch dashboard`: a real Prometheus; nothing at all; what a Grafana would be told. And Ray's own, in a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
import small_study as small
import yaml

pytestmark = pytest.mark.integration
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Started:
    """The command in a process of its own, with ports that nobody has."""

    def __init__(self, home: Path, path: str):
        self.ray, self.prometheus, self.grafana = free_ports(3)
        ports = {"--ray-port": self.ray, "--prometheus-port": self.prometheus, "--grafana-port": self.grafana}
        options = [str(part) for option in ports.items() for part in option]
        options += ["--ray-dir", str(home / "ray"), "--directory", str(home / "monitoring")]
        command = [sys.executable, small.ORCH, "dashboard", *options]
        environment = os.environ | {"PATH": path, "COLUMNS": "200"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def lines_until(self, beginning: str) -> list[str]:
        assert self.process.stdout is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith(beginning)):
            line = self.process.stdout.readline()
            assert line, lines
            lines.append(line.rstrip())
        return lines

    def stop(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        # Rich prints a line twice that a signal meets in the midst of it.
        assert self.process.communicate(timeout=60)[0].splitlines()[-1] == "stopped"
        assert self.process.returncode == 0


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus: apt-get install prometheus")
def test_it_starts_prometheus_on_the_nodes_of_that_ray_and_stops_it_again(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/prom_metrics_service_discovery.json").write_text('[{"labels": {}, "targets": ["127.0.0.1:9"]}]')
    only_prometheus = tmp_path / "bin"
    only_prometheus.mkdir()
    (only_prometheus / "prometheus").symlink_to(str(shutil.which("prometheus")))
    started = Started(tmp_path, str(only_prometheus))
    ray, prometheus, grafana, elsewhere, _ = started.lines_until("Ctrl-C stops Prometheus")
    assert ray.startswith(f"Ray           nothing listens on port {started.ray}")
    assert prometheus == f"Prometheus    http://localhost:{started.prometheus}"
    assert grafana.startswith("Grafana       is not installed")
    forward = f"{started.prometheus}:127.0.0.1:{started.prometheus}"
    assert elsewhere == f"elsewhere     ssh -N -L {forward} USER@THIS-MACHINE"

    def ask(what: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{started.prometheus}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]

    deadline = time.monotonic() + 60
    while not (targets := ask("targets")["activeTargets"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [target["scrapeUrl"] for target in targets] == ["http://127.0.0.1:9/metrics"]
    assert {rule["name"] for group in ask("rules")["groups"] for rule in group["rules"]} >= {"StalledStep", "LostNode"}
    again = small.orch("dashboard", "--prometheus-port", str(started.prometheus), "--ray-port", str(started.ray))
    assert "which was running already" in again.stdout and again.returncode == 0
    started.stop(signal.SIGINT)
    assert not listens(started.prometheus)


def test_with_nothing_installed_it_says_so_and_ends(tmp_path: Path) -> None:
    started = Started(tmp_path, str(tmp_path))
    said = started.process.communicate(timeout=60)[0].splitlines()
    assert started.process.returncode == 0
    assert [line.split()[0] for line in said] == ["Ray", "Prometheus", "Grafana"]
    assert all("is not installed: " in line for line in said[1:])


def test_a_grafana_is_told_of_prometheus_and_of_the_dashboards(tmp_path: Path) -> None:
    """Debian has no Grafana; this stands in for its command line and its port."""
    grafana = tmp_path / "bin/grafana"
    grafana.parent.mkdir()
    serve = "import os, http.server as h; h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), None).serve_forever()"
    grafana.write_text(
        f'#!/bin/sh\nfor a in "$@"; do echo "$a"; case "$a" in *http_port=*) export PORT="${{a##*=}}";; esac; done'
        f' > {tmp_path}/told\nexec {sys.executable} -c "{serve}"\n'
    )
    grafana.chmod(0o755)
    started = Started(tmp_path, str(grafana.parent))
    assert started.lines_until("Ctrl-C stops Grafana")[2] == f"Grafana       http://localhost:{started.grafana}"
    told = (tmp_path / "told").read_text().splitlines()
    assert told[0] == "server" and "cfg:default.server.http_addr=127.0.0.1" in told
    (provisioning,) = (line.partition("=")[2] for line in told if ".provisioning=" in line)
    (source,) = yaml.safe_load((Path(provisioning) / "datasources/compgan.yml").read_text())["datasources"]
    assert source["url"] == f"http://127.0.0.1:{started.prometheus}"
    (boards,) = yaml.safe_load((Path(provisioning) / "dashboards/compgan.yml").read_text())["providers"]
    assert {path.stem for path in Path(boards["options"]["path"]).glob("*.json")} == {"run", "sweep", "cluster"}
    started.stop(signal.SIGTERM)
    assert not listens(started.grafana)


def test_a_remote_cluster_is_a_tunnel() -> None:
    said = small.orch("dashboard", "--ssh", "ubuntu@head").stdout
    assert "ssh -N -L 8265:127.0.0.1:8265 -L 9090:127.0.0.1:9090 -L 3000:127.0.0.1:3000 ubuntu@head" in said


RUN = """
import sys
import ray
import toy_training as toy
from functools import partial
from orchestrator.artifacts.store import open_store
from orchestrator.runtime.cluster import Workers
from orchestrator.runtime.ray_train import run

temporary, store = sys.argv[1:]
here = ray.init("local", num_cpus=2, include_dashboard=True, dashboard_port=0, _temp_dir=temporary, log_to_driver=False)
tell = lambda event: print(here.dashboard_url, flush=True) if event["kind"] == "log" else None
run(partial(toy.train, pause_s=30), name="looked-at", workers=Workers(), store=open_store(store), on_event=tell)
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_rays_dashboard_shows_a_run_in_a_browser(tmp_path: Path) -> None:
    """Without the token, which a person types in once."""
    temporary = tempfile.mkdtemp(prefix="r", dir="/tmp")  # Unix sockets in it allow 107 bytes
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": paths}
    command = [sys.executable, "-c", RUN, temporary, str(tmp_path / "store")]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert driver.stdout is not None
        url = driver.stdout.readline().strip()
        for page, expected in (("actors", ("RayTrainWorker", "Mailbox", "ALIVE")), ("jobs", ("RUNNING", "Job List"))):
            options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
            options += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=15000"]
            shown = subprocess.run(
                [str(CHROMIUM), *options, f"http://{url}/#/{page}"], capture_output=True, text=True, timeout=120
            )
            assert "CONSOLE" not in shown.stderr, shown.stderr
            for text in expected:
                assert text in shown.stdout, (page, text)
    finally:
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=120)
        shutil.rmtree(temporary, ignore_errors=True)
