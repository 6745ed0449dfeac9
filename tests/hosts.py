"""Hosts with addresses of their own on one machine: network namespaces, each joined to one switch by a cable.

They share the disk and the clock, and nothing of the network. Needs the right to make namespaces, which root has.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyroute2
from pyroute2 import netns

T = TypeVar("T")
SUBNET = "198.51.100"  # kept for examples (RFC 5737): no route of this machine leads there
CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    name = f"probe{uuid.uuid4().hex[:6]}"
    try:
        netns.create(name)
        netns.remove(name)
    except OSError as error:
        return f"no right to make network namespaces: {error}"
    return ""


class Host:
    """One namespace. Its processes are those that it started, and their children."""

    def __init__(self, namespace: str, number: int):
        self.namespace, self.number, self.address = namespace, number, f"{SUBNET}.{number}"

    def start(self, *command: object, env: dict[str, str], log: Path) -> subprocess.Popen[str]:
        """Run a command on it. Its stderr goes to a file, its stdout to us."""
        with log.open("ab") as file:
            return subprocess.Popen(self._entered(command), env=env, stdout=subprocess.PIPE, stderr=file, text=True)

    def call(self, work: Callable[[], T]) -> T:
        """Run a function of this process as if on this host: the sockets that it opens are the host's."""
        result: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                with open(self._path) as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                result.append(work())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=enter)  # a namespace belongs to a thread, and this one ends
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def kill(self) -> None:
        """Every process of the host dies at once, as when its power fails."""
        while pids := [*self._pids()]:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)

    @property
    def _path(self) -> str:
        return f"{netns.NETNS_RUN_DIR}/{self.namespace}"

    def _entered(self, command: tuple[object, ...]) -> list[str]:
        return ["nsenter", f"--net={self._path}", *map(str, command)]

    def _pids(self) -> Iterator[int]:
        ours = os.stat(self._path).st_ino
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.stat(entry / "ns/net").st_ino == ours:
                    if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                        yield int(entry.name)
            except OSError:  # it has ended
                continue


class Network:
    """A switch and its hosts, for the length of a `with` block."""

    def __init__(self) -> None:
        self._name = f"orch{uuid.uuid4().hex[:6]}"
        self._hosts: list[Host] = []

    def __enter__(self) -> Network:
        netns.create(self._name)
        with pyroute2.NetNS(self._name) as switch:
            switch.link("add", ifname="bridge", kind="bridge")
            switch.link("set", index=switch.link_lookup(ifname="bridge")[0], state="up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.kill()
            netns.remove(host.namespace)
        netns.remove(self._name)

    def add(self) -> Host:
        """A new host, connected."""
        host = Host(f"{self._name}h{len(self._hosts) + 1}", len(self._hosts) + 1)
        netns.create(host.namespace)
        self._hosts.append(host)
        with pyroute2.NetNS(self._name) as switch, pyroute2.NetNS(host.namespace) as inside:
            port = f"port{host.number}"
            switch.link("add", ifname=port, kind="veth", peer={"ifname": "eth0", "net_ns_fd": host.namespace})
            index = switch.link_lookup(ifname=port)[0]
            switch.link("set", index=index, master=switch.link_lookup(ifname="bridge")[0])
            switch.link("set", index=index, state="up")
            eth0 = inside.link_lookup(ifname="eth0")[0]
            inside.addr("add", index=eth0, address=host.address, prefixlen=24)
            for device in (inside.link_lookup(ifname="lo")[0], eth0):
                inside.link("set", index=device, state="up")
            inside.route("add", family=socket.AF_INET, dst="default", oif=eth0)  # Ray asks which address leads out
        return host

    def plug(self, host: Host, connected: bool) -> None:
        """Connect a host to the switch, or pull its cable: nothing arrives, and nobody is told."""
        with pyroute2.NetNS(self._name) as switch:
            state = "up" if connected else "down"
            switch.link("set", index=switch.link_lookup(ifname=f"port{host.number}")[0], state=state)


@contextmanager
def relayed(host: Host, port: int, log: Path) -> Iterator[str]:
    """Let other hosts reach a server that listens on a host's loopback. The address of the way in."""
    relay = host.start(sys.executable, __file__, host.address, port, env=dict(os.environ), log=log)
    try:
        assert relay.stdout and relay.stdout.readline() == "ready\n"
        yield f"{host.address}:{port}"
    finally:
        relay.kill()
        relay.communicate()


def _relay(address: str, port: int) -> None:
    import asyncio

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind, ahead = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pipe(reader, ahead), pipe(behind, writer))

        server = await asyncio.start_server(answer, address, port)
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    _relay(sys.argv[1], int(sys.argv[2]))
