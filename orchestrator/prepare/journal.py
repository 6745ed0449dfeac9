"""What is finished, one line a file, so that work that was stopped goes on."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

from compgan_core.errors import ConfigurationError
from orchestrator.prepare.worker import Prepared


class Journal:
    """The finished files; the first line of the journal says with which settings."""

    def __init__(self, file: IO[bytes], finished: dict[str, Prepared]):
        self._file, self._finished = file, finished

    def find(self, name: str, sha256: str) -> Prepared | None:
        """What became of this file, if it was finished."""
        prepared = self._finished.get(name)
        return prepared if prepared and prepared.sha256 == sha256 else None

    def add(self, prepared: Prepared) -> None:
        """Note a file whose faces are written."""
        self._file.write(prepared.model_dump_json().encode() + b"\n")
        self._file.flush()


@contextmanager
def open_journal(path: Path, settings: BaseModel) -> Iterator[Journal]:
    """Begin a journal, or go on with it.

    A ConfigurationError if it was begun with other settings, or if another process is writing it.
    """
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another process is making {path.parent}: wait for it") from None
        file.seek(0)
        whole, newline, _ = file.read().rpartition(b"\n")
        file.truncate(len(whole + newline))  # a line that was being written does not count
        lines = whole.splitlines()
        if not lines:
            file.write(settings.model_dump_json().encode() + b"\n")
        elif lines[0] != settings.model_dump_json().encode():
            raise ConfigurationError(
                f"{path.parent} was begun {difference(lines[0], settings)}: give the same, or remove it to begin anew"
            )
        finished = [Prepared.model_validate_json(line) for line in lines[1:]]
        yield Journal(file, {prepared.name: prepared for prepared in finished})


def difference(before: bytes | str, settings: BaseModel) -> str:
    """What the settings were before, where they are not the same."""
    try:
        then = type(settings).model_validate_json(before)
    except ValidationError:
        return "by another version of this program"
    now = dict(settings)
    name, value = next((name, value) for name, value in dict(then).items() if value != now[name])
    return f"with {name.replace('_', ' ')} {value!r}, not {now[name]!r}"
