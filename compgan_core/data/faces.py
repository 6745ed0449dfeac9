"""Procedural faces: a small ray caster over ellipsoids with features painted on, for demos and tests without data.

A head is a smooth union of ellipsoids; eyes, brows and mouth are drawn in the skin's own coordinates (`paint`), so that
a turned head foreshortens, hides and shades them as a real one would. Space: x to the right of the picture, y up,
z to the viewer; a picture spans [-1, 1]. Points are arrays (3, n).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from compgan_core.data.looks import EXPRESSIONS, Ellipsoid, HairStyle, Look, Person, at_strength, person
from compgan_core.data.paint import Array, clothes, hair, skin
from compgan_core.errors import ConfigurationError, did_you_mean
from compgan_core.randomness import generator

POSES = {"bird": (0.0, -30.0), "front": (0.0, 0.0), "half_left": (-40.0, 0.0), "half_right": (40.0, 0.0)}
"""Where the face points, in degrees: yaw (positive to the right of the picture) and pitch (positive up)."""

SAMPLES = 2  # along each side of a pixel


def draw(identity: int, pose: str, expression: str, frame: int, size: int, seed: int) -> NDArray[np.uint8]:
    """One face, uint8 (size, size, 3). The views of a frame share its expression; each has a camera of its own."""
    for kind, name, allowed in (("pose", pose, POSES), ("expression", expression, EXPRESSIONS)):
        if name not in allowed:
            hint = did_you_mean(name, list(allowed))
            raise ConfigurationError(f"procedural faces have no {kind} {name!r}: {hint}")
    look = at_strength(EXPRESSIONS[expression], generator(seed, "moment", identity, expression, frame))
    rng = generator(seed, "camera", identity, expression, frame, pose)
    yaw, pitch = (angle + rng.uniform(-3, 3) for angle in POSES[pose])
    turn = _rotation(yaw, pitch + look.nod, look.tilt + rng.uniform(-2, 2))
    ground = _grid(size * SAMPLES) * rng.uniform(0.90, 0.95) + _column(rng.uniform(-0.03, 0.03), -0.09)
    light = _unit(_column(rng.uniform(-0.6, 0.2), rng.uniform(0.4, 0.8), 1))
    picture = _Scene(person(identity, seed), look, turn, ground, light[:, 0] @ turn).render()
    pixels = picture.reshape(3, size, SAMPLES, size, SAMPLES).mean(axis=(2, 4)).transpose(1, 2, 0)
    pixels = pixels * (255 * rng.uniform(0.96, 1.04)) + rng.normal(0, 1.2, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


TORSO = (Ellipsoid((0, -1.58, -0.12), (1.0, 0.76, 0.52)),)
MISS = np.float32(-9)


class _Scene:
    """A head in its own frame, seen along `toward_viewer`. Each of the n rays starts at its `origin`."""

    def __init__(self, who: Person, look: Look, turn: Array, ground: Array, light: Array):
        self.who, self.look, self.light, self.height = who, look, light, ground[1]
        self.origin = turn[:2].T @ ground
        self.toward_viewer = turn[2]

    def render(self) -> Array:
        """RGB in [0, 1], (3, n)."""
        dusk = 1 + 0.10 * np.minimum(self.height, 0)
        picture = _column(*self.who.background) * dusk
        head, torso, cap = self._head(), TORSO, (self._cap(),)
        style = self.who.hair_style
        cap_depth = self._depth(cap)
        hair_depth = np.where(self._has_hair(cap_depth, style), cap_depth, MISS)
        volumes = self._depth(style.parts) if style.parts else np.full_like(cap_depth, MISS)
        depths = np.stack([self._depth(head), self._depth(torso), hair_depth, volumes])
        nearest = np.where(depths.max(axis=0) > MISS, depths.argmax(axis=0), -1)
        for layer, (parts, paint) in enumerate(((head, skin), (torso, clothes), (cap, hair), (style.parts, hair))):
            seen = np.flatnonzero(nearest == layer)
            if len(seen):
                point = self.origin[:, seen] + depths[layer, seen] * self.toward_viewer[:, None]
                picture[:, seen] = paint(point, self.who, self.look) * self._shade(_normal(parts, point))
        return picture

    def _head(self) -> tuple[Ellipsoid, ...]:
        w = self.who
        ear = (0.07, 0.15, 0.10)
        return (
            Ellipsoid((0, 0.10, -0.02), (w.head_width, w.head_height, 0.60)),
            Ellipsoid((0, -0.30, 0.06), (w.jaw_width, 0.44, 0.47)),
            Ellipsoid((0, -0.10, 0.57), (0.075 * w.nose, 0.13, 0.12 * w.nose)),
            Ellipsoid((w.head_width, 0.0, -0.06), ear),
            Ellipsoid((-w.head_width, 0.0, -0.06), ear),
            Ellipsoid((0, -0.95, -0.14), (0.24, 0.55, 0.24)),
        )

    def _cap(self) -> Ellipsoid:
        w, swell = self.who, self.who.hair_style.swell
        radii = (w.head_width * swell + 0.01, w.head_height * swell, 0.60 * swell)
        return Ellipsoid((0, 0.13, -0.05), radii)

    def _has_hair(self, depth: Array, style: HairStyle) -> NDArray[np.bool_]:
        x, y, z = (o + depth * d for o, d in zip(self.origin, self.toward_viewer, strict=True))
        return y > style.front + style.slope * (z - 0.5) + style.wave * np.sin(x * 9 + 1)

    def _depth(self, parts: tuple[Ellipsoid, ...]) -> Array:
        """Where each ray first meets one of the parts, (n,); `MISS` where it does not."""
        depth = np.full(self.origin.shape[1], MISS)
        for centre, radii in parts:
            r = _column(*radii)
            d = self.toward_viewer / r[:, 0]
            ox, oy, oz = (self.origin - _column(*centre)) / r
            a, b = d @ d, d[0] * ox + d[1] * oy + d[2] * oz
            root = b * b - a * (ox * ox + oy * oy + oz * oz - 1)
            hit = np.flatnonzero(root > 0)
            depth[hit] = np.maximum(depth[hit], (np.sqrt(root[hit]) - b[hit]) / a)
        return depth

    def _shade(self, normal: Array) -> Array:
        facing, lit = np.clip(self.toward_viewer @ normal, 0, 1), np.clip(self.light @ normal, 0, 1)
        return (0.63 + 0.42 * lit) * (0.74 + 0.26 * np.sqrt(facing))


def _normal(parts: tuple[Ellipsoid, ...], point: Array) -> Array:
    """Unit normals (3, n) of a surface that runs smoothly from one part into the next."""
    total = np.zeros_like(point)
    for centre, radii in parts:
        r = _column(*radii)
        offset = (point - _column(*centre)) / r
        distance = (offset * offset).sum(axis=0)  # 1 on the part's own surface, more outside
        total += _unit(offset / r) * np.exp(-8 * np.abs(distance - 1))
    return _unit(total)


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
