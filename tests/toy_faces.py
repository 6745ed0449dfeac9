"""Sources of faces that Ray tasks can import."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from compgan_core.data.face import Face
from compgan_core.data.importers import procedural
from compgan_core.errors import DataError

DRAWN = partial(procedural.read, identities=3, expressions=("joy", "grief", "neutral"), size=16)  # 36 faces


def broken_at(number: int) -> list[Face]:
    faces = [*DRAWN()]
    faces[number] = Face("bad.png", "p", "front", "joy", "", 0, b"nothing")
    return faces


def truncated_at(number: int) -> Iterator[Face]:
    yield from [*DRAWN()][:number]
    raise DataError("the archive is truncated")
