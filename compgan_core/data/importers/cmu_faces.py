"""UCI CMU Face Images (T. Mitchell, Machine Learning, 1997): `<user>_<pose>_<expression>_<eyes>[_scale].pgm`.

Twenty people, some incomplete. Only the full-scale photographs are read; those that the authors marked `.bad` are not.
The brightest value that each file declares (120 to 158) becomes white when the file is decoded, as PGM defines it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import archives

_NAME = re.compile(
    r"(?P<user>[^_]+)_(?P<pose>left|right|straight|up)_(?P<expression>angry|happy|neutral|sad)"
    r"_(?P<eyes>open|sunglasses)(?P<scale>_\d+)?\.(?P<suffix>pgm|bad)"
)


def read(source: Path, sunglasses: Literal["drop", "keep"] = "drop") -> Iterator[Face | Skipped]:
    """The faces of the archive or of a directory.

    sunglasses: "keep" gives them as frame 1 of their cell, the open-eyed face being frame 0. By default they are
    dropped: they hide half of the expression, and a tuple would put them on or off together with it.
    """
    for name, content in archives.files(source):
        key = PurePosixPath(name).name
        match = _NAME.fullmatch(key)
        if match is None:
            yield Skipped(key, "not a face image")
        elif match["suffix"] == "bad":
            yield Skipped(key, "marked bad by the authors")
        elif match["scale"]:
            yield Skipped(key, "reduced copy")
        elif match["eyes"] == "sunglasses" and sunglasses == "drop":
            yield Skipped(key, "sunglasses")
        else:
            frame = int(match["eyes"] == "sunglasses")
            yield Face(key, match["user"], match["pose"], match["expression"], "", frame, content)
