"""`orch dashboard`: Prometheus and Grafana beside Ray's own dashboard, and how to reach them."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from orchestrator.monitor.dashboards import Server

START_S = 60.0
INSTALL = {
    "Prometheus": "install Debian's package `prometheus`, or let `ray metrics launch-prometheus` download one",
    "Grafana": "install it from grafana.com; the dashboards are in cluster/monitoring/grafana",
}


def dashboard(
    ssh: Annotated[
        str | None, typer.Option("--ssh", metavar="USER@HEAD", help="Start nothing; say how to reach a remote head.")
    ] = None,
    ray_port: Annotated[int, typer.Option("--ray-port", help="Of Ray's dashboard.")] = 8265,
    prometheus_port: Annotated[int, typer.Option("--prometheus-port")] = 9090,
    grafana_port: Annotated[int, typer.Option("--grafana-port")] = 3000,
    ray_dir: Annotated[
        Path, typer.Option("--ray-dir", envvar="RAY_TMPDIR", help="Where this machine's Ray keeps its sessions.")
    ] = Path("/tmp/ray"),
    directory: Annotated[Path, typer.Option("--directory", help="Where what is started keeps its data.")] = Path(
        ".local/monitoring"
    ),
) -> None:
    """Start what is installed on this head node, print its addresses, and stop it again with Ctrl-C.

    Everything listens on this machine only; a tunnel brings it to yours.
    """
    from orchestrator.monitor import dashboards

    printer, ports = Printer(), {"Ray": ray_port, "Prometheus": prometheus_port, "Grafana": grafana_port}
    if ssh:
        printer.note(f"on the head   ssh {ssh}, and there: orch dashboard")
        printer.note(f"on this one   {dashboards.tunnel(ssh, ports)}")
        for name, port in ports.items():
            printer.note(f"{name:13} http://localhost:{port}")
        return
    if dashboards.answers(ray_port):
        known = dashboards.nodes(ray_dir)
        printer.note(f"Ray           http://localhost:{ray_port}, {known} node(s) to be scraped")
    else:
        printer.note(f"Ray           nothing listens on port {ray_port}: start a run, or `ray start --head`")
    dashboards.check()
    directory = directory.absolute()
    started: list[Server] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        for name, port, start in (
            ("Prometheus", prometheus_port, lambda: dashboards.start_prometheus(directory, ray_dir, prometheus_port)),
            ("Grafana", grafana_port, lambda: dashboards.start_grafana(directory, grafana_port, prometheus_port)),
        ):
            if dashboards.answers(port):
                printer.note(f"{name:13} http://localhost:{port}, which was running already")
            elif (server := start()) is None:
                printer.note(f"{name:13} is not installed: {INSTALL[name]}")
            else:
                started.append(server)
                _wait_for(server, port)
                printer.note(f"{name:13} http://localhost:{port}")
        there = {name: port for name, port in ports.items() if dashboards.answers(port)}
        if there:
            printer.note(f"elsewhere     {dashboards.tunnel('USER@THIS-MACHINE', there)}")
        if not started:
            return
        printer.note("Ctrl-C stops " + " and ".join(server.name for server in started))
        while all(server.process.poll() is None for server in started):
            time.sleep(0.5)
        _fail(next(server for server in started if server.process.poll() is not None))
    except KeyboardInterrupt:
        printer.note("stopped")
    finally:
        for server in started:
            server.stop()


def _wait_for(server: Server, port: int) -> None:
    from orchestrator.monitor.dashboards import answers

    deadline = time.monotonic() + START_S
    while not answers(port):
        if server.process.poll() is not None or time.monotonic() > deadline:
            _fail(server)
        time.sleep(0.2)


def _fail(server: Server) -> None:
    from compgan_core.errors import CapacityError

    lines = server.log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    raise CapacityError(f"{server.name} does not run: {lines[-1]} ({server.log} has the rest)")
