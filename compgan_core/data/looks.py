"""Who the procedural faces are, and what their expressions look like: plain numbers that `faces` draws."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from compgan_core.randomness import generator

Colour = tuple[float, float, float]


class Look(NamedTuple):
    """The muscles of an expression. The defaults are the neutral face."""

    brow: tuple[float, ...] = (0, 0, 0)
    """Raise; tilt, positive with the inner ends down as in anger, negative with them up as in sorrow; and skew, which
    raises one brow and lowers the other."""
    lids: tuple[float, ...] = (1, -0.6)
    """Heights of the upper and lower lid in the middle. Equal ones shut the eye: above its corners in joy, below at
    rest."""
    gaze: tuple[float, ...] = (0, 0)
    """To the right of the picture, and up."""
    mouth: tuple[float, ...] = (1, 0, 0, 0)
    """Width; curve, positive with the corners up; skew, which lifts one corner; and how far open it is."""
    teeth: float = 0
    """1 shows the upper row, 2 both rows clenched."""
    pupil: float = 1
    blush: float = 0
    nose_wrinkle: float = 0
    furrow: float = 0
    """Lines between the brows."""
    bags: float = 0
    tears: float = 0
    sweat: float = 0
    nod: float = 0
    """Degrees that the chin is up."""
    tilt: float = 0
    """Degrees that the head leans to the left of the picture."""


EXPRESSIONS: dict[str, Look] = {
    "aggression": Look(
        brow=(-0.7, 1.3, 0),
        lids=(0.75, -0.35),
        mouth=(1.15, -0.5, 0, 0.42),
        teeth=2,
        pupil=0.8,
        blush=0.25,
        nose_wrinkle=0.8,
        furrow=1,
        nod=-4,
    ),
    "angry": Look(
        brow=(-0.8, 1.2, 0), lids=(0.7, -0.45), mouth=(0.85, -0.9, 0, 0), pupil=0.8, blush=0.3, furrow=1, nod=-4
    ),
    "boredom": Look(brow=(-0.1, 0, 0), lids=(0.12, -0.65), gaze=(0.55, 0.1), mouth=(0.85, -0.1, 0.35, 0), tilt=9),
    "calm": Look(brow=(0.15, -0.15, 0), lids=(-0.5, -0.56), mouth=(0.9, 0.5, 0, 0)),
    "concentration": Look(
        brow=(-0.55, 0.5, 0), lids=(0.5, -0.45), gaze=(0, -0.35), mouth=(0.5, -0.1, 0, 0), pupil=0.9, furrow=0.8, nod=-3
    ),
    "confusion": Look(
        brow=(0.2, -0.2, 0.75),
        lids=(1.05, -0.6),
        gaze=(0.35, 0.45),
        mouth=(0.6, -0.35, -0.5, 0.16),
        pupil=0.9,
        tilt=-10,
    ),
    "contempt": Look(
        brow=(0, 0.25, -0.4), lids=(0.4, -0.5), gaze=(0.25, -0.1), mouth=(0.9, 0.15, 1.25, 0), nod=5, tilt=4
    ),
    "disgust": Look(
        brow=(-0.5, 0.6, 0),
        lids=(0.4, -0.1),
        gaze=(0, -0.2),
        mouth=(0.85, -1.15, 0.35, 0.2),
        teeth=1,
        pupil=0.9,
        nose_wrinkle=1,
        furrow=0.4,
        nod=2,
    ),
    "ecstasy": Look(brow=(0.7, -0.3, 0), lids=(0.75, 0.66), mouth=(1.15, 1.1, 0, 0.9), teeth=1, blush=0.6, nod=9),
    "embarrassed": Look(
        brow=(0.35, -0.7, 0), lids=(0.7, -0.35), gaze=(-0.5, -0.4), mouth=(0.75, 0.45, -0.5, 0), blush=1, nod=-4, tilt=7
    ),
    "fatigue": Look(
        brow=(0.1, -0.45, 0),
        lids=(-0.1, -0.6),
        gaze=(0, -0.3),
        mouth=(0.6, -0.3, 0, 0.14),
        pupil=0.9,
        bags=1,
        nod=-4,
        tilt=-5,
    ),
    "fear": Look(brow=(0.75, -0.9, 0), lids=(1.4, -0.95), mouth=(1.05, -0.65, 0, 0.3), teeth=2, pupil=0.5, nod=-2),
    "grief": Look(brow=(0.1, -1.3, 0), lids=(-0.3, -0.36), mouth=(0.95, -1.2, 0, 0.42), blush=0.35, tears=1, nod=-4),
    "joy": Look(brow=(0.25, -0.1, 0), lids=(0.9, -0.15), mouth=(1.15, 1, 0, 0.5), teeth=1, blush=0.4),
    "love": Look(
        brow=(0.4, -0.35, 0), lids=(1, -0.35), gaze=(0, 0.1), mouth=(0.85, 0.95, 0, 0), pupil=1.6, blush=0.9, tilt=-9
    ),
    "neutral": Look(),
    "pain": Look(
        brow=(-0.7, 0.5, 0), lids=(0.05, 0), mouth=(1.2, -0.35, 0, 0.45), teeth=2, nose_wrinkle=0.7, furrow=0.9, tilt=6
    ),
    "panic": Look(brow=(1, -0.6, 0), lids=(1.55, -1.1), mouth=(0.95, -0.7, 0, 1.05), pupil=0.35, sweat=1),
    "pride": Look(brow=(0.3, 0.2, 0), lids=(0.2, -0.5), gaze=(0, -0.25), mouth=(1, 0.85, 0, 0), nod=13),
    "sadness": Look(brow=(0.1, -1.1, 0), lids=(0.65, -0.6), gaze=(0, -0.5), mouth=(0.8, -0.95, 0, 0), nod=-5, tilt=3),
    "shock": Look(brow=(1.2, 0.1, 0), lids=(1.5, -1.1), mouth=(0.72, 0, 0, 1.55), pupil=0.45, nod=3),
    "surprise": Look(brow=(1, -0.1, 0), lids=(1.3, -0.85), mouth=(0.45, 0, 0, 0.75), pupil=0.9),
    "suspicion": Look(
        brow=(-0.35, 0.45, 0.6), lids=(0.2, -0.25), gaze=(0.75, 0), mouth=(0.75, -0.35, -0.6, 0), pupil=0.9, tilt=5
    ),
    "worry": Look(
        brow=(0.35, -1, 0), lids=(1.05, -0.6), gaze=(-0.5, 0.15), mouth=(0.7, -0.5, 0.3, 0), pupil=0.85, sweat=0.8
    ),
}


def at_strength(look: Look, rng: np.random.Generator) -> Look:
    """The expression at 85 to 100 % of its strength, and the gaze not quite still."""
    strength = rng.uniform(0.85, 1.0)

    def weakened(muscle: str) -> Any:
        rest, full = np.array(getattr(Look(), muscle)), np.array(getattr(look, muscle))
        return (rest + strength * (full - rest)).tolist()

    made = Look(**{muscle: weakened(muscle) for muscle in Look._fields})
    gaze = tuple(np.add(made.gaze, rng.uniform(-0.12, 0.12, 2)).tolist())
    return made._replace(gaze=gaze, teeth=look.teeth, lids=look.lids)  # weaker lids would leave shut eyes ajar


class Ellipsoid(NamedTuple):
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


class HairStyle(NamedTuple):
    """A cap of hair above a line that falls from the forehead to the nape, and other volumes."""

    swell: float
    front: float
    slope: float
    wave: float
    parts: tuple[Ellipsoid, ...] = ()
    beard: bool = False
    """Whether it may come with one."""


HAIR_STYLES = (
    HairStyle(1.05, 0.46, 0.80, 0.02, beard=True),  # short
    HairStyle(1.06, 0.47, 0.70, 0.03, (Ellipsoid((0, -0.22, -0.22), (0.68, 0.94, 0.46)),)),  # long
    HairStyle(1.06, 0.44, 0.75, 0.04, (Ellipsoid((0, 0.34, -0.16), (0.74, 0.60, 0.62)),)),  # curly
    HairStyle(1.06, 0.36, 0.50, 0.02, (Ellipsoid((0, 0.14, -0.15), (0.65, 0.72, 0.56)),)),  # fringe
    HairStyle(1.05, 0.48, 0.80, 0.0, (Ellipsoid((0, 0.86, -0.20), (0.25, 0.20, 0.25)),)),  # bun
    HairStyle(1.04, 0.62, 1.15, 0.0, beard=True),  # receding
    HairStyle(1.06, 0.40, 0.55, 0.0, (Ellipsoid((0, -0.02, -0.14), (0.70, 0.72, 0.54)),)),  # bob
    HairStyle(1.02, 0.54, 0.95, 0.0, (Ellipsoid((0, 0.60, -0.10), (0.15, 0.34, 0.58)),), beard=True),  # crest
)


class Person(NamedTuple):
    """What stays the same in all faces of an identity. Lengths are in half image widths."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    background: Colour
    hair_style: HairStyle
    head_width: float
    head_height: float
    jaw_width: float
    eye_gap: float
    eye_size: float
    brow_weight: float
    nose: float
    lips: float
    """How red."""
    beard: float
    freckles: float


_SKIN = (
    (0.97, 0.82, 0.71),
    (0.95, 0.75, 0.60),
    (0.88, 0.68, 0.50),
    (0.76, 0.54, 0.38),
    (0.58, 0.39, 0.27),
    (0.48, 0.32, 0.23),
)
_HAIR = (
    (0.10, 0.08, 0.08),
    (0.24, 0.15, 0.09),
    (0.42, 0.25, 0.12),
    (0.87, 0.69, 0.36),
    (0.66, 0.27, 0.10),
    (0.62, 0.61, 0.62),
)
_IRIS = ((0.25, 0.46, 0.68), (0.36, 0.23, 0.12), (0.28, 0.50, 0.30), (0.45, 0.36, 0.18), (0.38, 0.42, 0.48))


@lru_cache(maxsize=4096)
def person(identity: int, seed: int) -> Person:
    """Identity number `identity` of the cast that `seed` draws."""
    rng = generator(seed, "person", identity)
    hue = (identity * 0.618034 + rng.random() * 0.1) % 1
    skin = int((identity * 0.754878 + 0.1) % 1 * len(_SKIN))
    dark = skin >= 4
    style = HAIR_STYLES[identity % len(HAIR_STYLES)]
    return Person(
        skin=_vary(_SKIN[skin], 0.03, rng),
        hair=_vary(_HAIR[rng.integers(2 if dark else len(_HAIR))], 0.03, rng),
        iris=_IRIS[1 if dark else rng.integers(len(_IRIS))],
        clothes=hsv_to_rgb(hue, 0.55, 0.75),
        background=hsv_to_rgb((hue + 0.45) % 1, 0.16, 0.93),
        hair_style=style,
        head_width=rng.uniform(0.53, 0.60),
        head_height=rng.uniform(0.64, 0.72),
        jaw_width=rng.uniform(0.36, 0.47),
        eye_gap=rng.uniform(0.205, 0.25),
        eye_size=rng.uniform(0.92, 1.1),
        brow_weight=rng.uniform(0.8, 1.35),
        nose=rng.uniform(0.8, 1.25),
        lips=rng.uniform(0.1, 0.8),
        beard=float(rng.choice([0, 0, 0, 0.25, 0.8])) if style.beard else 0.0,
        freckles=float(rng.random() < 0.2 and not dark),
    )


def _vary(colour: Colour, amount: float, rng: np.random.Generator) -> Colour:
    r, g, b = np.clip(np.array(colour) + rng.uniform(-amount, amount, 3), 0.03, 1)
    return float(r), float(g), float(b)
