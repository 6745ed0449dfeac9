"""CK+ (Lucey et al., 2010): 593 sequences of 123 people, from neutral to the peak of an expression; 327 are labelled.

`cohn-kanade-images/S005/001/S005_001_00000011.png` is a frame of sequence 001 of person S005, and
`Emotion/S005/001/S005_001_00000011_emotion.txt` the label of that sequence, one number. Terms: signed agreement with
the authors, by custom non-commercial (ri.cmu.edu/project/cohn-kanade-au-coded-facial-expression-database).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import base, stray

EXPRESSIONS = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
"""By the number in the label files."""

_FRAME = re.compile(r"((S\d{3})_\d{3})_(\d{8})\.png", re.IGNORECASE)
_LABEL = re.compile(r"(S\d{3}_\d{3})_\d{8}_emotion\.txt", re.IGNORECASE)
_NUMBER = re.compile(rb"\s*([0-7])(\.0*(e\+?0+)?)?\s*", re.IGNORECASE)


def read(source: Source, frames: Annotated[int, Field(ge=1)] = 1) -> Iterator[Face | Skipped]:
    """The first frame of each labelled sequence, which is neutral, and the last ones, which show its expression.

    The four archives, or what they unpack to, lie in one directory, which is read twice. Frames of a sequence are
    near-copies of each other, and so are sequences of a person: split by person.

    frames: how many of the last frames to take; three is usual.
    """
    labels, numbers = _survey(source)
    for name, image in source.files():
        key = base(name)
        match = _FRAME.fullmatch(key)
        if match is None:
            yield Skipped(key, "a label") if _LABEL.fullmatch(key) else stray(key, "named like S005_001_00000011.png")
            continue
        sequence, person, frame = match[1].upper(), match[2].upper(), int(match[3])
        first, *rest = sorted(numbers[sequence])
        label = labels.get(sequence)
        if label is None:
            yield Skipped(key, "its sequence has no label")
        elif frame != first and frame not in rest[-frames:]:
            yield Skipped(key, "between neutral and peak")
        elif number := _NUMBER.fullmatch(label):
            expression = EXPRESSIONS[0 if frame == first else int(number[1])]
            yield Face(key, person, "front", expression, sequence, frame, image)
        else:
            yield Skipped(key, f"the label of its sequence is {label[:20]!r}, not a number from 0 to 7", broken=True)


def _survey(source: Source) -> tuple[dict[str, bytes], dict[str, set[int]]]:
    """The labels, and the numbers of the frames, by sequence."""
    labels, numbers = {}, defaultdict(set)
    for name, content in source.files():
        if match := _FRAME.fullmatch(base(name)):
            numbers[match[1].upper()].add(int(match[3]))
        elif match := _LABEL.fullmatch(base(name)):
            labels[match[1].upper()] = content
    return labels, numbers
