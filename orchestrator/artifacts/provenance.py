"""Which code, on which machine, with which libraries."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "compgan-orchestrator"
CODE_VERSION = "COMPGAN_CODE_VERSION"  # set where the code came without its package, as with a submitted job
LIBRARIES = ("torch", "numpy", "pyarrow", "pillow", "ray", "deepspeed", "pydantic")


@cache
def code_version() -> str:
    """Package version, and the git commit when the code runs from a checkout: `1.0.0+3f2a91c04be7-dirty`."""
    if told := os.environ.get(CODE_VERSION):
        return told
    here = Path(__file__)
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)  # not some other checkout around us
    commit = _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") if tracked else ""
    return f"{_version(DISTRIBUTION)}+{commit}" if commit else _version(DISTRIBUTION)


@cache
def library_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def host() -> str:
    return socket.gethostname()


def _git(directory: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
