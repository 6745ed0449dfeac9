"""`orch store`: the embedded S3 server, and buckets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.store_server import Credentials

app = typer.Typer(help="Serve S3 from this machine; make a bucket.", no_args_is_help=True, rich_markup_mode=None)
READ_SECRET = 'import json, sys; print(json.load(open(sys.argv[1]))["secret_key"])'


@app.command()
def serve(
    data: Annotated[Path, typer.Option("--data", help="Where the objects are kept.")] = Path(".local/s3"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On the loopback; 0 takes a free one.")] = 9000,
) -> None:
    """Serve a directory as S3 until Ctrl-C, on the loopback only, and print how to reach it."""
    from orchestrator.store_server import StoreServer

    with StoreServer(data, port) as server:  # a process of its own, since the server patches the one it runs in
        _announce(server.credentials, data.absolute() / "credentials.json")
        server.wait()


@app.command()
def create(url: Annotated[str, typer.Argument(help="s3://bucket or s3://bucket/prefix")]) -> None:
    """Make the bucket of a store, if there is none, and prove that it can be used."""
    from orchestrator.artifacts.store import open_store

    store = open_store(url)
    store.check(create=True)
    print(f"{store.url} is readable and writable")


def _announce(credentials: Credentials, keys: Path) -> None:
    """Lines for other shells. The secret stays in its file: what a terminal shows is recorded and shared."""
    secret = shlex.join(["python3", "-c", READ_SECRET, str(keys)])
    print(f"# S3 on this machine until Ctrl-C; the keys lie in {keys}. In other shells:")
    for name, value in credentials.environment().items():
        shown = f'"$({secret})"' if value == credentials.secret_key else shlex.quote(value)
        print(f"export {name}={shown}", flush=True)
