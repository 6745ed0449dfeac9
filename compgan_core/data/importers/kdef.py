"""KDEF (Lundqvist, Flykt and Öhman, 1998): 4,900 photographs 562 x 762, `AF01ANS.JPG`, complete.

The name: session, sex, number of the person, expression, angle; 70 people x 7 x 5, in two sessions. Terms: researchers
only, non-commercial, never redistributed (kdef.se).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import base, stray

EXPRESSIONS = {
    "AF": "afraid",
    "AN": "angry",
    "DI": "disgusted",
    "HA": "happy",
    "NE": "neutral",
    "SA": "sad",
    "SU": "surprised",
}
POSES = {"FL": "full_left", "HL": "half_left", "S": "front", "HR": "half_right", "FR": "full_right"}
_NAME = re.compile(rf"(([AB])([FM]\d\d)({'|'.join(EXPRESSIONS)}))({'|'.join(POSES)})\.JPG")
_MISNAMED = {"AF31V.JPG": "AF31SAHL.JPG", "AM31H.JPG": "AM31SUHR.JPG"}  # as distributed


def read(source: Source) -> Iterator[Face | Skipped]:
    """The faces. Sessions A and B, of the same people, are frames 0 and 1; the five views of a face are a sequence."""
    for name, image in source.files():
        key = base(name)
        match = _NAME.fullmatch(_MISNAMED.get(key.upper(), key.upper()))
        if match:
            sequence, session, person, expression, angle = match.groups()
            frame = "AB".index(session)
            yield Face(key, person, POSES[angle], EXPRESSIONS[expression], sequence, frame, image)
        elif "AKDEF" in name.split("/"):
            yield Skipped(key, "averaged face")
        else:
            yield stray(key, "named like AF01ANS.JPG")
