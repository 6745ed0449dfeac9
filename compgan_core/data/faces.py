"""Procedural faces: a small ray caster over ellipsoids with features painted on, for demos and tests without data.

A head is a smooth union of ellipsoids; eyes, brows and mouth are drawn in the skin's own coordinates (`paint`), so that
a turned head foreshortens, hides and shades them as a real one would. Space: x to the right of the picture, y up,
z to the viewer; a picture spans [-1, 1]. Points are arrays (3, n).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compgan_core.data.looks import EXPRESSIONS, Ellipsoid, Look, Person, at_strength, person
from compgan_core.data.paint import Array, clothes, hair, skin
from compgan_core.errors import ConfigurationError, did_you_mean
from compgan_core.randomness import generator

POSES = {"bird": (0.0, -30.0), "front": (0.0, 0.0), "half_left": (-40.0, 0.0), "half_right": (40.0, 0.0)}
"""Where the face points, in degrees: yaw (positive to the right of the picture) and pitch (positive up)."""

SAMPLES = 2  # along each side of a pixel


def draw(identity: int, pose: str, expression: str, frame: int, size: int, seed: int) -> NDArray[np.uint8]:
    """One face, uint8 (size, size, 3). The views of a frame share its expression; each has a camera of its own."""
    check_known("pose", pose, POSES)
    check_known("expression", expression, EXPRESSIONS)
    look = at_strength(EXPRESSIONS[expression], generator(seed, "moment", identity, expression, frame))
    rng = generator(seed, "camera", identity, expression, frame, pose)
    pixels = 255 * render(person(identity, seed), look, _camera(pose, rng), size)
    return np.clip(np.rint(pixels + rng.normal(0, 1.2, pixels.shape)), 0, 255).astype(np.uint8)


def check_known(kind: str, name: str, allowed: Collection[str]) -> None:
    """Raises ConfigurationError, with the nearest of those allowed, where a name is not one of them."""
    if name not in allowed:
        hint = did_you_mean(name, list(allowed))
        raise ConfigurationError(f"procedural faces have no {kind} {name!r}: {hint}")


class Camera(NamedTuple):
    """Where it sees the face from, in degrees as `POSES`, and how."""

    yaw: float
    pitch: float
    roll: float = 0
    zoom: float = 0.925
    """Half the width of the picture."""
    shift: float = 0
    light: tuple[float, float] = (-0.2, 0.6)
    """Where it comes from: right of the picture, and up."""
    exposure: float = 1


def _camera(pose: str, rng: np.random.Generator) -> Camera:
    yaw, pitch = (angle + rng.uniform(-3, 3) for angle in POSES[pose])
    roll, zoom, shift = rng.uniform(-2, 2), rng.uniform(0.90, 0.95), rng.uniform(-0.03, 0.03)
    light = rng.uniform(-0.6, 0.2), rng.uniform(0.4, 0.8)
    return Camera(yaw, pitch, roll, zoom, shift, light, exposure=rng.uniform(0.96, 1.04))


def render(who: Person, look: Look, camera: Camera, size: int) -> Array:
    """A face, (size, size, 3), in [0, 1] at exposure 1."""
    turn = _rotation(camera.yaw, camera.pitch + look.nod, camera.roll + look.tilt)
    ground = _grid(size * SAMPLES) * camera.zoom + _column(camera.shift, -0.09)
    light = _unit(_column(*camera.light, 1))
    picture = _Scene(who, look, turn, ground, light[:, 0] @ turn).render()
    return _shrunk(picture, size).transpose(1, 2, 0) * np.float32(camera.exposure)


TORSO = (Ellipsoid((0, -1.58, -0.12), (1.0, 0.76, 0.52)),)
PAINTS = (skin, clothes, hair, hair)  # of the layers: head, torso, cap of hair, volumes of hair
CAP, NOTHING = 2, -1


class _Scene:
    """A head, seen along the last row of `turn` by parallel rays through the points of `ground`, (2, side * side)."""

    def __init__(self, who: Person, look: Look, turn: Array, ground: Array, light: Array):
        self.who, self.look, self.turn, self.ground, self.light = who, look, turn, ground, light
        side = round(ground.shape[1] ** 0.5)
        self.x, self.y = ground[0, :side], ground[1, ::side, None]
        self.depth = np.full((side, side), -np.inf, np.float32)
        self.layer = np.full((side, side), NOTHING, np.int8)

    def render(self) -> Array:
        """RGB in [0, 1], (3, side * side)."""
        layers = (_head(self.who), TORSO, (_cap(self.who),), self.who.hair_style.parts)
        for number, parts in enumerate(layers):
            self._cast(parts, number)
        picture = _column(*self.who.background) * (1 + 0.10 * np.minimum(self.ground[1], 0))
        layer, depth = self.layer.ravel(), self.depth.ravel()
        for number, (parts, paint) in enumerate(zip(layers, PAINTS, strict=True)):
            seen = np.flatnonzero(layer == number)
            if len(seen):
                point = self.turn.T @ np.vstack([self.ground.take(seen, axis=1), depth[seen]])
                colour = paint(point, self.who, self.look) * self._shade(_normal(parts, point))
                for whole, made in zip(picture, colour, strict=True):  # a third of the time that picture[:, seen] takes
                    whole[seen] = made
        return picture

    def _cast(self, parts: tuple[Ellipsoid, ...], layer: int) -> None:
        """Enter where the rays meet a part before anything else, within the box that it fills in the picture."""
        if not parts:
            return
        centre, radii = _stacked(parts)
        middle = centre @ self.turn.T  # (parts, 3), as the picture has it
        scaled = self.turn / radii[:, None]
        reach = np.sqrt(((self.turn * radii[:, None]) ** 2).sum(axis=2))
        for (across, up, ahead), half, gram in zip(middle, reach, scaled @ scaled.transpose(0, 2, 1), strict=True):
            box = _within(-self.y[:, 0], -up, half[1]), _within(self.x, across, half[0])
            x, y = self.x[box[1]] - across, self.y[box[0]] - up
            # The depth z above the centre solves (x y z) gram (x y z)^T = 1.
            (xx, xy, xz), (_, yy, yz), _ = gram / gram[2, 2]
            square = (1 / gram[2, 2] + (xz * xz - xx) * x * x) + (yz * yz - yy) * y * y + (2 * (xz * yz - xy) * x) * y
            with np.errstate(invalid="ignore"):  # the root of a ray that misses is NaN, which is above nothing
                met = (depth := np.sqrt(square) + (ahead - xz * x) - yz * y) > self.depth[box]
            if layer == CAP:
                rows, columns = np.nonzero(met)
                seen = np.stack([x[columns] + across, y[rows, 0] + up, depth[rows, columns]])
                met[rows, columns] = _has_hair(self.turn.T @ seen, self.who)
            np.copyto(self.depth[box], depth, where=met)
            np.copyto(self.layer[box], layer, where=met)

    def _shade(self, normal: Array) -> Array:
        facing, lit = np.clip(np.stack([self.turn[2], self.light]) @ normal, 0, 1)
        return (0.63 + 0.42 * lit) * (0.74 + 0.26 * np.sqrt(facing))


def _head(who: Person) -> tuple[Ellipsoid, ...]:
    ear = (0.07, 0.15, 0.10)
    return (
        Ellipsoid((0, 0.10, -0.02), (who.head_width, who.head_height, 0.60)),
        Ellipsoid((0, -0.30, 0.06), (who.jaw_width, 0.44, 0.47)),
        Ellipsoid((0, -0.10, 0.57), (0.075 * who.nose, 0.13, 0.12 * who.nose)),
        Ellipsoid((who.head_width, 0.0, -0.06), ear),
        Ellipsoid((-who.head_width, 0.0, -0.06), ear),
        Ellipsoid((0, -0.95, -0.14), (0.24, 0.55, 0.24)),
    )


def _cap(who: Person) -> Ellipsoid:
    swell = who.hair_style.swell
    return Ellipsoid((0, 0.13, -0.05), (who.head_width * swell + 0.01, who.head_height * swell, 0.60 * swell))


def _has_hair(point: Array, who: Person) -> NDArray[np.bool_]:
    (x, y, z), style = point, who.hair_style
    return y > style.front + style.slope * (z - 0.5) + style.wave * np.sin(x * 9 + 1)


def _normal(parts: tuple[Ellipsoid, ...], point: Array) -> Array:
    """Unit normals (3, n) of a surface that runs smoothly from one part into the next."""
    centre, radii = _stacked(parts)
    inverse = radii**-2
    powers = np.concatenate([point * point, point])

    def length(scale: Array) -> Array:
        """sum(scale * (point - centre)^2) of each part, (parts, n)."""
        return np.hstack([scale, -2 * scale * centre]) @ powers + (scale * centre * centre).sum(axis=1, keepdims=True)

    distance = length(inverse)  # 1 on the part's own surface, more outside
    weight = np.exp(-8 * np.abs(distance - 1)) / np.sqrt(length(inverse * inverse))
    return _unit((inverse.T @ weight) * point - (inverse * centre).T @ weight)


def _stacked(parts: tuple[Ellipsoid, ...]) -> tuple[Array, Array]:
    """Centres and radii, (parts, 3) each."""
    centre, radii = np.array(parts, np.float32).transpose(1, 0, 2)
    return centre, radii


def _within(axis: Array, middle: float, reach: float) -> slice:
    """The part of an ascending axis that is less than `reach` from `middle`."""
    return slice(*np.searchsorted(axis, (middle - reach, middle + reach)))


def _shrunk(picture: Array, size: int) -> Array:
    """The means over each pixel: (3, samples) to (3, size, size)."""
    rows = picture.reshape(3, size, SAMPLES, size * SAMPLES).sum(axis=2)
    return sum(rows[..., i::SAMPLES] for i in range(SAMPLES)) / np.float32(SAMPLES**2)


@lru_cache(maxsize=8)
def _grid(side: int) -> Array:
    """The (x, y) of all samples, row by row from the top: (2, side * side)."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    return np.stack([np.tile(axis, side), np.repeat(-axis, side)])


def _rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Degrees to a rotation that turns the face to the right of the picture, up, and counter-clockwise."""
    (sy, sp, sr), (cy, cp, cr) = np.sin(np.radians([yaw, pitch, roll])), np.cos(np.radians([yaw, pitch, roll]))
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    around_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (around_z @ around_x @ around_y).astype(np.float32)


def _column(*values: float) -> Array:
    return np.array(values, dtype=np.float32)[:, None]


def _unit(vectors: Array) -> Array:
    """(3, n) scaled to length 1."""
    return vectors / np.sqrt(np.maximum((vectors * vectors).sum(axis=0), 1e-12))
