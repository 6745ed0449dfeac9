"""RaFD (Langner et al., 2010): 8,040 photographs, `Rafd090_28_Caucasian_male_angry_frontal.jpg`, complete.

The name: camera, person, origin, sex, expression, gaze; 67 people x 8 x 3 gazes from 5 cameras at once. Terms: staff of
accredited universities, scientific use only (rafd.socsci.ru.nl).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import base, stray

EXPRESSIONS = ("angry", "contemptuous", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
POSES = {"000": "full_right", "045": "half_right", "090": "front", "135": "half_left", "180": "full_left"}
"""By the angle of the camera. The authors do not say from which side they count; users take 000 for the right."""

GAZES = ("frontal", "left", "right")
_NAME = re.compile(
    rf"rafd({'|'.join(POSES)})_(\d\d)_([a-z]+)_([a-z]+)_({'|'.join(EXPRESSIONS)})_({'|'.join(GAZES)})\.jpg",
    re.IGNORECASE,
)


def read(source: Source) -> Iterator[Face | Skipped]:
    """The faces. The gaze is the frame (frontal 0, left 1, right 2); one expression of one person is a sequence."""
    for name, image in source.files():
        key = base(name)
        if match := _NAME.fullmatch(key):
            camera, person, origin, sex, *shown = match.groups()
            expression, gaze = (word.lower() for word in shown)
            attributes = origin.lower(), sex.lower(), f"gaze_{gaze}"
            sequence, frame = f"{person}_{expression}", GAZES.index(gaze)
            yield Face(key, person, POSES[camera], expression, sequence, frame, image, attributes=attributes)
        else:
            yield stray(key, "named like Rafd090_28_Caucasian_male_angry_frontal.jpg")
