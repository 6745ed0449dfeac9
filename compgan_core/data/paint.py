"""What is painted on the surfaces of a procedural face. Points and colours are float32 arrays (3, n).

Skin is painted in its own coordinates: u, the arc length around the head from the middle of the face; v, the height.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compgan_core.data.looks import Look, Person

Array = NDArray[np.float32]
EYE_V, BROW_V, MOUTH_V = 0.06, 0.235, -0.395


def skin(point: Array, who: Person, look: Look) -> Array:
    """The face itself."""
    u, v = np.arctan2(point[0], point[2]) * np.float32(0.6), point[1]
    canvas = _Canvas(colours(who.skin, len(u)), u, v)
    _complexion(canvas, who, look)
    _mouth(canvas.part((np.abs(u) < 0.34) & (v < -0.12) & (v > -0.80)), who, look)
    for side in (-1, 1):
        near = np.abs(u - side * who.eye_gap) < 0.24
        _eye(canvas.part(near & (np.abs(v - EYE_V) < 0.22)), who, look, side)
        _brow(canvas.part(near & (v > 0) & (v < 0.5)), who, look, side)
    _wrinkles(canvas.part(np.abs(u) < 0.52), who, look)
    _drops(canvas, look)
    return canvas.colour


def hair(point: Array, who: Person, look: Look) -> Array:
    angle = np.arctan2(point[0], point[2] + 0.1)
    strands = 1 + 0.10 * np.sin(angle * 23 + 3 * point[1]) + 0.05 * np.sin(angle * 51)
    gloss = 0.16 * np.exp(-(((point[1] - 0.52) / 0.09) ** 2))
    return colours(who.hair, 1) * (strands + gloss) + 0.25 * gloss


def clothes(point: Array, who: Person, look: Look) -> Array:
    collar = np.hypot(point[0], point[2] + 0.14) < 0.34
    return colours(who.clothes, 1) * np.where(collar, np.float32(0.8), np.float32(1))


def colours(colour: ArrayLike, n: int) -> Array:
    """One colour n times."""
    return np.repeat(np.asarray(colour, dtype=np.float32)[:, None], n, axis=1)


class _Canvas:
    """Colours (3, n) at the points (u, v) of the skin, or those of a region of another canvas."""

    def __init__(self, colour: Array, u: Array, v: Array, rows: NDArray[np.int64] | None = None):
        self.colour, self.u, self.v, self.rows = colour, u, v, rows

    def part(self, where: NDArray[np.bool_]) -> _Canvas:
        """A region of a whole canvas."""
        rows = np.flatnonzero(where)
        return _Canvas(self.colour, self.u[rows], self.v[rows], rows)

    def fill(self, where: NDArray[np.bool_], colour: ArrayLike, opacity: float = 1) -> None:
        rows = np.flatnonzero(where)
        rows = rows if self.rows is None else self.rows[rows]
        for channel, value in zip(self.colour, np.asarray(colour, np.float32), strict=True):
            channel[rows] = value if opacity == 1 else channel[rows] + np.float32(opacity) * (value - channel[rows])


def _complexion(canvas: _Canvas, who: Person, look: Look) -> None:
    u, v = canvas.u, canvas.v
    cheeks = np.exp(-(((np.abs(u) - 0.31) / 0.12) ** 2) - ((v + 0.17) / 0.10) ** 2)
    rosy = np.array(who.skin) * (0.55, 0.25, 0.25) + (0.45, 0.08, 0.08)
    canvas.colour += (0.12 + 0.75 * look.blush) * cheeks * (colours(rosy, 1) - canvas.colour)
    nostrils = np.hypot(np.abs(u) - 0.042, (v + 0.205) * 1.3) < 0.026
    canvas.fill(nostrils, np.array(who.skin) * 0.35, 0.7)
    if who.freckles:
        spots = (np.sin(u * 71) * np.sin(v * 83) > 0.75) & (np.abs(v + 0.12) < 0.09) & (np.abs(u) < 0.4)
        canvas.fill(spots, (0.55, 0.32, 0.20), 0.45)
    if who.beard:
        edge = -0.22 - 0.30 * np.exp(-((u / 0.22) ** 2)) + 0.22 * np.abs(u)
        chin = (v < edge) & (v > -0.80) & (np.abs(u) < 0.95)
        moustache = (np.abs(u) < 0.19) & (np.abs(v + 0.285 + 0.5 * u * u) < 0.035)
        canvas.fill(chin | moustache, who.hair, who.beard)


def _eye(canvas: _Canvas, who: Person, look: Look, side: int) -> None:
    """side: -1 for the eye at the left of the picture, whose x then runs outwards too."""
    width, height = 0.150 * who.eye_size, 0.100 * who.eye_size
    x, y = (canvas.u - side * who.eye_gap) * side, canvas.v - EYE_V
    arch, inside = 1 - (x / width) ** 2, np.abs(x) < width
    upper, lower = (lid * height * arch for lid in (look.upper_lid, look.lower_lid))
    white = inside & (y < upper) & (y > lower)
    canvas.fill(
        inside & (y < 1.15 * height * arch) & (y > -0.8 * height * arch) & ~white, np.array(who.skin) * 0.86, 0.8
    )
    canvas.fill(white, (0.98, 0.98, 0.97))
    right, up = look.gaze_right * side * 0.065, look.gaze_up * 0.05 + 0.012
    iris = np.hypot(x - right, y - up)
    canvas.fill(white & (iris < 0.078), np.array(who.iris) * 0.55)
    canvas.fill(white & (iris < 0.064), who.iris)
    canvas.fill(white & (iris < 0.038 * look.pupil), (0.04, 0.04, 0.06))
    canvas.fill(white & (np.hypot(x - right + side * 0.028, y - up - 0.030) < 0.020), (1, 1, 1))
    canvas.fill(inside & (np.abs(y - lower) < 0.010), (0.30, 0.18, 0.14), 0.6)
    canvas.fill((np.abs(x) < width * 1.06) & (np.abs(y - upper) < 0.021), (0.10, 0.06, 0.05))


def _brow(canvas: _Canvas, who: Person, look: Look, side: int) -> None:
    x = (canvas.u - side * who.eye_gap) * side
    height = BROW_V + 0.070 * (look.brow_distance + side * look.brow_skew)
    middle = height + 0.080 * look.brow_slope * (x / 0.15) - 0.035 * (1 + look.brow_curve) * (x / 0.15) ** 2
    thickness = 0.033 * who.brow_weight * (1 - 0.35 * np.clip(x / 0.17, -0.5, 1))
    stroke = (np.abs(canvas.v - middle) < thickness) & (x > -0.145) & (x < 0.175)
    canvas.fill(stroke, np.minimum(np.array(who.hair) * 0.65, np.array(who.skin) * 0.6))


def _mouth(canvas: _Canvas, who: Person, look: Look) -> None:
    x, y = canvas.u / np.float32(0.235 * look.mouth_width), canvas.v - MOUTH_V
    bulge = np.sqrt(np.maximum(1 - x * x, 0))
    middle = 0.095 * look.mouth_curve * (x * x - 0.4) + 0.070 * look.mouth_skew * x
    top, bottom = middle + 0.05 * look.mouth_open * bulge, middle - 0.17 * look.mouth_open * bulge
    inside = np.abs(x) < 1
    lips = np.array(who.skin) * (1 - who.lips * 0.3) * (0.86, 0.62, 0.60) + np.array((0.16, 0.02, 0.03)) * who.lips
    canvas.fill(inside & (y < top + 0.036 * bulge) & (y > bottom - 0.045 * bulge), lips)
    hole = inside & (y < top) & (y > bottom)
    canvas.fill(hole, (0.26, 0.05, 0.07))
    canvas.fill(hole & (np.hypot(x * 0.8, (y - bottom) / 0.09) < 0.75), (0.84, 0.38, 0.40))
    if look.teeth:
        row = hole & (y > top - (0.06 if look.teeth == 1 else 1))
        canvas.fill(row, (0.98, 0.97, 0.94))
        if look.teeth == 2:
            gaps = (np.abs(y - (top + bottom) / 2) < 0.011) | (np.abs(np.sin(x * 9)) < 0.12)
            canvas.fill(row & gaps, (0.55, 0.45, 0.42))
    canvas.fill((np.abs(x) < 1.04) & (np.abs(y - middle) < 0.018) & ~hole, np.array(who.skin) * (0.38, 0.20, 0.20))


def _wrinkles(canvas: _Canvas, who: Person, look: Look) -> None:
    dark, side, v = np.array(who.skin) * 0.5, np.abs(canvas.u), canvas.v
    if look.nasal_wrinkles > 0.05:
        across = (np.abs(np.sin((v + 0.35 * side) * 52)) < 0.38) & (side < 0.09) & (v > -0.06) & (v < 0.12)
        folds = (np.abs(side - 0.12 + 0.35 * (v + 0.12)) < 0.016) & (v < -0.12) & (v > -0.30)
        canvas.fill(across | folds, dark, look.nasal_wrinkles)
    if look.furrow > 0.05:
        canvas.fill((np.abs(side - 0.04) < 0.014) & (v > 0.15) & (v < 0.29), dark, look.furrow)
    if look.brow_distance > 0.5:
        bow = v + 0.4 * side * side
        lines = (np.abs(bow - 0.40) < 0.012) | (np.abs(bow - 0.46) < 0.011)
        canvas.fill(lines & (side < 0.22), dark, min(look.brow_distance - 0.5, 0.6))
    if look.wrinkles_below > 0.05:
        x = (side - who.eye_gap) / 0.13
        canvas.fill(
            (np.abs(v + 0.055 - 0.05 * (x * x - 1)) < 0.020) & (np.abs(x) < 1),
            (0.40, 0.26, 0.40),
            0.8 * look.wrinkles_below,
        )
    if look.temporal_wrinkles > 0.05:
        x, y = (side - who.eye_gap) / who.eye_size - 0.165, np.abs(v - EYE_V)
        fan = (np.abs(y - 0.028 - 0.5 * x) < 0.011) | (y < 0.009)
        canvas.fill(fan & (x > 0) & (x < 0.085), dark, look.temporal_wrinkles)


def _drops(canvas: _Canvas, look: Look) -> None:
    """Tears, and sweat at one temple."""
    blue = (0.60, 0.84, 1.0)
    if look.tears > 0.05:
        aside = np.abs(np.abs(canvas.u) - 0.26)
        stream = (aside < 0.034) & (canvas.v < 0.03) & (canvas.v > -0.36)
        canvas.fill(stream | (np.hypot(aside, canvas.v + 0.36) < 0.055), blue, look.tears)
    if look.sweat > 0.05:
        taper = 0.055 - 0.20 * np.clip(canvas.v - 0.26, 0, 0.4)
        canvas.fill(np.hypot(np.abs(canvas.u) - 0.47, (canvas.v - 0.26) * 0.7) < taper, blue, look.sweat)
