"""JAFFE (Lyons et al., 1998): 213 gray photographs 256 x 256 of ten women, TIFF, `KA.AN1.39.tiff`.

The name: person, expression and take, running number. Terms: non-commercial research, with citation; access on request
(zenodo.org/record/3451524).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import base, stray

EXPRESSIONS = {
    "AN": "angry",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happy",
    "NE": "neutral",
    "SA": "sad",
    "SU": "surprise",
}
_NAME = re.compile(rf"([A-Z]{{2}})\.({'|'.join(EXPRESSIONS)})(\d)\.\d{{1,3}}\.tiff?", re.IGNORECASE)


def read(source: Source) -> Iterator[Face | Skipped]:
    """The faces; all are frontal, and the number of the take is the frame."""
    for name, image in source.files():
        key = base(name)
        if match := _NAME.fullmatch(key):
            person, expression, take = match.groups()
            yield Face(key, person.upper(), "front", EXPRESSIONS[expression.upper()], "", int(take), image)
        else:
            yield stray(key, "named like KA.AN1.39.tiff")
