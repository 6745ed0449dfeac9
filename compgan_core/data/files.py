"""Files that say of themselves, or of others, that they are complete."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field


class DataFile(BaseModel, frozen=True, extra="forbid"):
    """One file of a data set or a cache."""

    name: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
    """Of a file beside the one that names it."""
    rows: int
    bytes: int
    sha256: str


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe_file(path: Path, rows: int) -> DataFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return DataFile(name=path.name, rows=rows, bytes=path.stat().st_size, sha256=digest)


def write_last(path: Path, text: str) -> None:
    """Write the file whose presence means that everything is there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
