"""UCI CMU Face Images (T. Mitchell, Machine Learning, 1997): `<user>_<pose>_<expression>_<eyes>[_scale].pgm`.

Twenty people, some incomplete. Only the full-scale photographs are read; those that the authors marked `.bad` are not.
The brightest value that each file declares (120 to 158) becomes white when the file is decoded, as PGM defines it.
Terms: free for educational use, with attribution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import base, stray

_NAME = re.compile(
    r"(?P<user>[^_]+)_(?P<pose>left|right|straight|up)_(?P<expression>angry|happy|neutral|sad)"
    r"_(?P<eyes>open|sunglasses)(?P<scale>_\d+)?\.(?P<suffix>pgm|bad)"
)


def read(source: Source, sunglasses: Literal["drop", "keep"] = "drop") -> Iterator[Face | Skipped]:
    """The faces of the archive or of a directory.

    sunglasses: "keep" gives them as frame 1 of their cell, the open-eyed face being frame 0. By default they are
    dropped: they hide half of the expression, and a tuple would put them on or off together with it.
    """
    for name, content in source.files():
        key = base(name)
        match = _NAME.fullmatch(key)
        if match is None:
            yield stray(key, "named like an2i_left_angry_open.pgm")
        elif match["scale"]:
            yield Skipped(key, "reduced copy")
        elif match["suffix"] == "bad":
            yield Skipped(key, "marked bad by the authors", broken=True, known=True)
        elif match["eyes"] == "sunglasses" and sunglasses == "drop":
            yield Skipped(key, "sunglasses")
        else:
            frame = int(match["eyes"] == "sunglasses")
            yield Face(key, match["user"], match["pose"], match["expression"], "", frame, content)
