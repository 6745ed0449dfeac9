"""Where a face goes in its crop: the eyes level, at one place and one scale, whatever the pose.

The place is that of the LightCNN authors: in a crop of 144, the middle of the eyes is 48 from the top and 48 above the
mouth (github.com/AlfredXiangWu/LightCNN). The unit is that of FFHQ (Karras, Laine, Aila 2019, appendix A): the
distance of the eyes, or 0.9 times that from the eyes to the mouth, whichever is longer. They are equal for a frontal
face; turning sideways shortens the one, looking up or down the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
"""(2,): x to the right, y down, in pixels; the middle of the first pixel is (0, 0)."""

MOUTH_TO_EYES = 0.9
UNITS_PER_SIDE = 3 / MOUTH_TO_EYES
EYES_FROM_TOP = 1 / 3


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Of one face, in its picture. Left and right are the picture's, not the person's."""

    left_eye: Point
    right_eye: Point
    mouth: Point

    @classmethod
    def from_five(cls, points: NDArray[np.floating]) -> Landmarks:
        """From (5, 2): left eye, right eye, nose, and the corners of the mouth."""
        return cls(points[0], points[1], points[3:5].mean(axis=0))


def crop_to_picture(
    landmarks: Landmarks, size: int, units_per_side: float = UNITS_PER_SIDE, eyes_from_top: float = EYES_FROM_TOP
) -> NDArray[np.float64]:
    """The (2, 3) similarity that takes (x, y, 1) in a crop of size x size to the point of the picture shown there."""
    across = landmarks.right_eye - landmarks.left_eye
    middle = (landmarks.left_eye + landmarks.right_eye) / 2
    apart = np.hypot(*across)
    unit = max(apart, MOUTH_TO_EYES * np.hypot(*(landmarks.mouth - middle)))
    cosine, sine = across / apart if apart else (1.0, 0.0)
    linear = np.array([[cosine, -sine], [sine, cosine]]) * unit * units_per_side / size
    place = np.array([0.5, eyes_from_top]) * size - 0.5
    return np.column_stack([linear, middle - linear @ place])
