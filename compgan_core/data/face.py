"""One face as an importer hands it over, and the record of a file that gave none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Partition = Literal["", "train", "validation", "test"]


@dataclass(frozen=True)
class Face:
    """An encoded picture and what is known of it. An empty identity, pose or expression is unknown."""

    key: str
    """Unique in the source; the same however the source is packed."""
    identity: str
    pose: str
    expression: str
    sequence: str
    """The recording it is a frame of, or empty."""
    frame: int
    """The same number for views taken at the same instant."""
    image_bytes: bytes
    partition: Partition = ""
    """The side of the split that comes with the data, or empty."""
    attributes: tuple[str, ...] = ()
    """Names of whatever else the source says is true of the face, such as CelebA's Smiling."""


@dataclass(frozen=True)
class Skipped:
    """A file of the source that gives no face."""

    key: str
    reason: str
    broken: bool = False
    """True if it should have given one; False if a rule leaves it out."""
    known: bool = False
    """Its authors say that it is broken, which therefore stops no import."""
