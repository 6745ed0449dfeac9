"""Who the procedural faces are, and what their expressions look like: plain numbers that `faces` draws."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from compgan_core.randomness import generator

Colour = tuple[float, float, float]


class Look(NamedTuple):
    """The muscles of an expression. The defaults are the neutral face."""

    # The seven features of the eye region that the paper tells expressions apart by; the last is an aperture: two lids.
    temporal_wrinkles: float = 0
    wrinkles_below: float = 0
    nasal_wrinkles: float = 0
    brow_slope: float = 0
    """Positive with the inner ends down as in anger, negative with them up as in sorrow."""
    brow_curve: float = 0
    """Positive for a higher arch; -1 is straight."""
    brow_distance: float = 0
    """From the eye: positive is raised."""
    upper_lid: float = 1
    lower_lid: float = -0.6
    """Heights in the middle. Equal ones shut the eye: above its corners in joy, below at rest."""

    mouth_width: float = 1
    mouth_curve: float = 0
    """Positive with the corners up."""
    mouth_skew: float = 0
    """Lifts one corner."""
    mouth_open: float = 0
    teeth: float = 0
    """1 shows the upper row, 2 both rows clenched."""

    gaze_right: float = 0
    """Of the picture."""
    gaze_up: float = 0
    brow_skew: float = 0
    """Raises one brow and lowers the other."""
    pupil: float = 1
    blush: float = 0
    furrow: float = 0
    """Lines between the brows."""
    tears: float = 0
    sweat: float = 0
    nod: float = 0
    """Degrees that the chin is up."""
    tilt: float = 0
    """Degrees that the head leans to the left of the picture."""


# The columns are the fields of Look in their order (t b n: wrinkles, T: teeth, x y: gaze); other fields have names.
_TABLE = """
                t  b  n slope bend dist upper  low width curve skew open T    x    y
acceptance      0  0  0  -.35    0   .2    .6  -.5  1.05    .6    0    0 0    0    0  nod=-7
admiration      0  0  0  -.25   .6   .7   1.2  -.6    .9    .8    0   .3 1    0   .5  pupil=1.4 blush=.3 nod=5
aggression      0  0 .8   1.3    0  -.7   .75 -.35  1.15   -.5    0  .42 2    0    0  pupil=.8 furrow=1 blush=.25 nod=-4
amusement       1  0  0   -.1   .3  .35    .6   .1   1.2   .95  .35  .25 1   .4    0  blush=.3 tilt=-6
angry           0  0  0   1.2    0  -.8    .7 -.45   .85   -.9    0    0 0    0    0  pupil=.8 blush=.3 furrow=1 nod=-4
anticipation    0  0  0     0   .5  .55  1.25 -.75   .65    .4    0  .45 1   .5   .3  pupil=1.2 nod=3
anxiety         0 .5  0    -1  -.6   .2  1.15  -.7  1.15   -.2    0  .12 2  -.7    0  furrow=.5 sweat=1 nod=-2 tilt=-5
apathy          0 .5  0   -.2   -1 -.15   .35  -.6    .9  -.35    0    0 0    0  -.3  pupil=.8 nod=-3 tilt=4
arrogance       0  0  0    .3   .5   .2   .35 -.45   .85  -.35   .7    0 0  -.4  -.4  brow_skew=.7 nod=12 tilt=-4
awe             0  0  0   -.3   .9  .95  1.35  -.7    .6   .25    0   .6 0    0   .7  pupil=1.4 nod=8
boredom         0  0  0     0    0  -.1   .12 -.65   .85   -.1  .35    0 0  .55   .1  tilt=9
bravery         0  0  0    .7   .5   .1    .8  -.4   1.1    .3    0    0 0    0  .25  furrow=.4 nod=8
calm            0  0  0  -.15    0  .15   -.5 -.56    .9    .5    0    0 0    0    0
concentration   0  0  0    .5    0 -.55    .5 -.45    .5   -.1    0    0 0    0 -.35  pupil=.9 furrow=.8 nod=-3
confusion       0  0  0   -.2    0   .2  1.05  -.6    .6  -.35  -.5  .16 0  .35  .45  brow_skew=.75 pupil=.9 tilt=-10
contempt        0  0  0   .25    0    0    .4  -.5    .9   .15 1.25    0 0  .25  -.1  brow_skew=-.4 nod=5 tilt=4
curiosity       0  0  0   -.1   .4  .45   1.2  -.6   .55   .45   .3  .12 0  .65   .2  brow_skew=.6 nod=-3 tilt=-5
defiance        0  0 .2     1  -.5  -.5   .65  -.3    .8  -.55    0    0 0    0    0  furrow=.6 nod=9 tilt=-5
desire          0  0  0   -.3   .5   .1   .45  -.5   .75   .35    0  .28 0    0   .1  pupil=1.6 blush=.6 nod=4 tilt=-6
despair         0 .9  0  -1.3  -.8   .3   .45  -.6    .8  -1.1    0   .7 0    0  .55  nod=8
determination  .4  0 .3    .9  -.6 -.75   .55  -.3  1.25    .1    0    0 0    0    0  furrow=.8 nod=3
disappointment  0 .4  0   -.7  -.5    0    .5  -.6   .95   -.7  .35    0 0   .5  -.5  nod=-6 tilt=6
disbelief       0  0  0    .1   .3   .9  1.25  -.6    .7   -.5   .7  .55 0 -.45    0  brow_skew=.35 pupil=.7 tilt=6
disgust         0  0  1    .6    0  -.5    .4  -.1   .85 -1.15  .35   .2 1    0  -.2  pupil=.9 furrow=.4 nod=2
doubt           0  0  0    .2    0   .1   .55  -.4    .7   -.7   .6    0 0  -.5   .3  brow_skew=-.8 tilt=6
ecstasy         0  0  0   -.3    0   .7   .75  .66  1.15   1.1    0   .9 1    0    0  blush=.6 nod=9
embarrassed     0  0  0   -.7    0  .35    .7 -.35   .75   .45  -.5    0 0  -.5  -.4  blush=1 nod=-4 tilt=7
envy            0 .6 .3    .7    0 -.35   .45 -.15   .75   -.6  -.5    0 0  -.8    0  furrow=.4
fatigue         0  1  0  -.45    0   .1   -.1  -.6    .6   -.3    0  .14 0    0  -.3  pupil=.9 nod=-4 tilt=-5
fear            0  0  0   -.9    0  .75   1.4 -.95  1.05  -.65    0   .3 2    0    0  pupil=.5 nod=-2
frustration    .6 .4 .3    .7  -.8  -.7    .1  -.1   .55   -.9   .5    0 0    0    0  blush=.5 furrow=1 nod=-6 tilt=-5
gratitude      .6  0  0   -.7   .4  .45   .55  .48     1    .8    0    0 0    0    0  blush=.4 nod=-8 tilt=-4
grief           0  0  0  -1.3    0   .1   -.3 -.36   .95  -1.2    0  .42 0    0    0  blush=.35 tears=1 nod=-4
guilt           0 .3  0  -.85    0  .15   .55 -.55   .55  -.45    0    0 0  -.6  -.7  blush=.3 nod=-8 tilt=-6
hate           .5 .5 .7   1.4   .4  -.9   .45  -.2     1   -.9    1   .2 2    0   .1  pupil=.6 furrow=1 nod=-7
hope            0  0  0   -.75   .3   .5   1.1 -.55   .75   .55    0  .12 1  -.3  .75  pupil=1.3 nod=6 tilt=7
irritation      0 .3 .6    .5  -.4  -.4    .4  -.4   .85  -.45  -.5    0 0   .6   .5  furrow=.5 tilt=-4
joy             0  0  0   -.1    0  .25    .9 -.15  1.15     1    0   .5 1    0    0  blush=.4
love            0  0  0  -.35    0   .4     1 -.35   .85   .95    0    0 0    0   .1  pupil=1.6 blush=.9 tilt=-9
neutral         0  0  0     0    0    0     1  -.6     1     0    0    0 0    0    0
nostalgia       0 .3  0   -.6   .2   .2    .6  -.6    .8    .6  .15    0 0 -.65   .6  nod=4 tilt=6
optimism       .8  0  0    .2   .6   .6   .95  -.2  1.15    .9    0    0 0   .3   .5  nod=7 tilt=-3
pain            0  0 .7    .5    0  -.7   .05    0   1.2  -.35    0  .45 2    0    0  furrow=.9 tilt=6
panic           0  0  0   -.6    0    1  1.55 -1.1   .95   -.7    0 1.05 0    0    0  pupil=.35 sweat=1
pity            0  0  0    -1   .5  .45    .8  -.5    .5   -.4    0    0 0    0    0  pupil=1.2 tilt=11
pride           0  0  0    .2    0   .3    .2  -.5     1   .85    0    0 0    0 -.25  nod=13
relief         .3  0  0  -.45   .3  .35   -.4 -.46    .7   .45    0  .35 0    0    0  sweat=.6 nod=6 tilt=-3
sadness         0  0  0  -1.1    0   .1   .65  -.6    .8  -.95    0    0 0    0  -.5  nod=-5 tilt=3
shame           0 .3  0   -.9  -.5 -.05  -.25  -.6    .6   -.7    0    0 0  .35  -.9  blush=.9 nod=-11 tilt=5
shock           0  0  0    .1    0  1.2   1.5 -1.1   .72     0    0 1.55 0    0    0  pupil=.45 nod=3
surprise        0  0  0   -.1    0    1   1.3 -.85   .45     0    0  .75 0    0    0  pupil=.9
suspicion       0  0  0   .45    0 -.35    .2 -.25   .75  -.35  -.6    0 0  .75    0  brow_skew=.6 pupil=.9 tilt=5
tension        .3  0 .2    .4  -.9  -.2  1.15  -.5  1.25   -.1    0   .1 2    0    0  pupil=.5 furrow=.9 sweat=.7 nod=-4
worry           0  0  0    -1    0  .35  1.05  -.6    .7   -.5   .3    0 0  -.5  .15  pupil=.85 sweat=.8
"""
_COLUMNS = 15


def _looks(table: str) -> dict[str, Look]:
    looks = {}
    for line in table.strip("\n").splitlines()[1:]:
        name, *cells = line.split()
        others = (cell.split("=") for cell in cells[_COLUMNS:])
        looks[name] = Look(*map(float, cells[:_COLUMNS]), **{muscle: float(value) for muscle, value in others})
    return looks


EXPRESSIONS = _looks(_TABLE)
"""F2ED has 54. The paper's prose names 21 of these; the other names are those of the rendered stand-in for F2ED."""


def at_strength(look: Look, rng: np.random.Generator) -> Look:
    """The expression at 85 to 100 % of its strength, and the gaze not quite still."""
    strength = rng.uniform(0.85, 1.0)
    made = Look(*(rest + strength * (full - rest) for rest, full in zip(Look(), look, strict=True)))
    right, up = rng.uniform(-0.12, 0.12, 2).tolist()
    return made._replace(
        gaze_right=made.gaze_right + right,
        gaze_up=made.gaze_up + up,
        teeth=look.teeth,
        upper_lid=look.upper_lid,  # weaker lids would leave shut eyes ajar
        lower_lid=look.lower_lid,
    )


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
