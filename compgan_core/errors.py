"""Every failure a user can meet, in one tree.

A message says what is wrong, with which value, what was allowed, and what to do. The exit code tells scripts which
kind of failure it was; `orch` prints the message as one sentence and keeps the traceback for `--debug`.
"""

from __future__ import annotations


class CompganError(Exception):
    """Base of all failures raised on purpose."""

    exit_code = 70


class ConfigurationError(CompganError):
    """The request itself is wrong: an unknown key, a task that does not exist, a value out of range."""

    exit_code = 2


class DataError(ConfigurationError):
    """The data cannot serve the request: a truncated archive, an image that does not decode, one pose only."""


class StorageError(CompganError):
    """The store cannot be reached, refuses the keys, cannot be written, or returns other bytes than were stored."""

    exit_code = 3


class CapacityError(CompganError):
    """The cluster does not have what was asked for."""

    exit_code = 4


class DivergenceError(CompganError):
    """A loss or a gradient is not finite; raised before the update, so the last checkpoint is sound."""

    exit_code = 6


def told(error: CompganError) -> tuple[str, str]:
    """A failure as (kind, message), to be told to another process, which cannot unpickle every subclass."""
    kind = next(c for c in type(error).__mro__ if c.__module__ == __name__)
    return kind.__name__, str(error)


def retold(kind: str, message: str) -> CompganError:
    """The failure that `told` tells of."""
    error = globals()[kind](message)
    assert isinstance(error, CompganError)
    return error


def did_you_mean(given: str, allowed: list[str]) -> str:
    """The end of a message about an unknown name: the nearest names, or the whole list when nothing is near."""
    import difflib

    near = difflib.get_close_matches(given, allowed, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"allowed: {', '.join(allowed)}"
