"""Prometheus and Grafana with what cluster/monitoring/ has for them, started where they are installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from compgan_core.errors import ConfigurationError

MONITORING = Path(__file__).parents[2] / "cluster/monitoring"
DISCOVERY = "prom_metrics_service_discovery.json"
"""What Ray's dashboard writes into its temporary directory: the nodes that there are."""
HERE = "127.0.0.1"
GRAFANA_HOMES = ("/usr/share/grafana", "/usr/local/share/grafana", "/opt/homebrew/share/grafana")
STOP_S = 15.0


class Server(NamedTuple):
    """A process that was started here; what it prints goes to `log`."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def answers(port: int) -> bool:
    """Whether something listens there on this machine."""
    with socket.socket() as asking:
        asking.settimeout(1)
        return asking.connect_ex((HERE, port)) == 0


def start_prometheus(directory: Path, ray_dir: Path, port: int) -> Server | None:
    """Start it with the shipped rules on the nodes of the Ray in `ray_dir`; None if it is not installed."""
    binary = shutil.which("prometheus")
    if binary is None:
        return None
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(ray_dir.absolute() / DISCOVERY)]}]
    directory.mkdir(parents=True, exist_ok=True)
    written = directory / "prometheus.yml"
    written.write_text(yaml.safe_dump(config))
    options = [f"--config.file={written}", f"--storage.tsdb.path={directory / 'prometheus'}"]
    return _start("Prometheus", [binary, *options, f"--web.listen-address={HERE}:{port}"], port, directory)


def start_grafana(directory: Path, port: int, prometheus_port: int) -> Server | None:
    """Start it with the shipped dashboards and that Prometheus, for whoever reaches it; None if it is not installed."""
    binary = shutil.which("grafana") or shutil.which("grafana-server")
    if binary is None:
        return None
    provisioning = directory / "provisioning"
    source = {"name": "Prometheus", "type": "prometheus", "url": f"http://{HERE}:{prometheus_port}", "isDefault": True}
    boards = {"name": "Comp-GAN", "type": "file", "options": {"path": str(MONITORING / "grafana")}}
    for kind, content in (("datasources", {"datasources": [source]}), ("dashboards", {"providers": [boards]})):
        path = provisioning / kind / "compgan.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"apiVersion": 1, **content}))
    settings = {
        "paths.data": directory / "grafana",
        "paths.logs": directory / "grafana",
        "paths.provisioning": provisioning,
        "server.http_addr": HERE,
        "server.http_port": port,
        "auth.anonymous.enabled": "true",  # it listens on this machine only
        "security.allow_embedding": "true",  # in Ray's dashboard
        "analytics.reporting_enabled": "false",
    }
    home = next((place for place in GRAFANA_HOMES if Path(place).is_dir()), None)
    options = [f"--homepath={home}"] if home else []
    server = ["server"] if Path(binary).name == "grafana" else []
    command = [binary, *server, *options, *(f"cfg:default.{name}={value}" for name, value in settings.items())]
    return _start("Grafana", command, port, directory)


def tunnel(target: str, ports: Mapping[str, int]) -> str:
    """The command that brings those ports of a remote machine to this one."""
    forwards = " ".join(f"-L {port}:{HERE}:{port}" for port in ports.values())
    return f"ssh -N {forwards} {target}"


def nodes(ray_dir: Path) -> int:
    """How many nodes the Ray in that directory has told Prometheus of; 0 if there is none."""
    try:
        found: list[dict[str, Any]] = json.loads((ray_dir / DISCOVERY).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    return len({target.rpartition(":")[0] for group in found for target in group["targets"]})


def check() -> None:
    """Raise ConfigurationError if this is not a clone, whose files are what is started with."""
    if not MONITORING.is_dir():
        raise ConfigurationError(f"{MONITORING} is not there: `orch dashboard` needs a clone, installed with pip -e")


def _start(name: str, command: list[str], port: int, directory: Path) -> Server:
    log = directory / f"{name.lower()}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)
    return Server(name, f"http://{HERE}:{port}", process, log)
