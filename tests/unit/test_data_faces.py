import numpy as np
import pytest

from compgan_core.data.faces import draw
from compgan_core.data.looks import EXPRESSIONS
from compgan_core.errors import ConfigurationError

# The names of the rendered stand-in for F2ED, which the procedural expressions are a part of.
F2ED = """
acceptance admiration aggression amusement angry anticipation anxiety apathy arrogance awe boredom bravery calm
concentration confusion contempt curiosity defiance desire despair determination disappointment disbelief disgust
doubt ecstasy embarrassed envy fatigue fear frustration gratitude grief guilt hate hope irritation joy love neutral
nostalgia optimism pain panic pity pride relief sadness shame shock surprise suspicion tension worry
""".split()


def test_there_are_at_least_16_expressions_and_they_are_of_f2ed():
    assert len(EXPRESSIONS) >= 16 and set(EXPRESSIONS) <= set(F2ED) and len(F2ED) == 54


def test_a_face_is_a_function_of_its_labels_and_seed():
    face = draw(1, "front", "joy", 0, 32, seed=0)
    assert face.shape == (32, 32, 3) and face.dtype == np.uint8
    assert np.array_equal(face, draw(1, "front", "joy", 0, 32, seed=0))
    others = [(2, "front", "joy", 0, 0), (1, "bird", "joy", 0, 0), (1, "front", "grief", 0, 0)]
    others += [(1, "front", "joy", 1, 0), (1, "front", "joy", 0, 1)]
    for identity, pose, expression, frame, seed in others:
        assert not np.array_equal(face, draw(identity, pose, expression, frame, 32, seed))


def test_expressions_can_be_told_apart_at_32_pixels():
    """By nearest neighbour over five other frames, one grey pixel of shift allowed."""

    def faces(identity, frame):
        grey = np.stack([draw(identity, "front", name, frame, 32, seed=0) for name in EXPRESSIONS]).mean(axis=3)
        return grey - grey.mean(axis=(1, 2), keepdims=True)

    right = 0
    for identity in range(3):
        known, unknown = np.stack([faces(identity, frame) for frame in range(1, 6)]), faces(identity, 0)
        shifted = [np.roll(unknown, shift, axis=(1, 2)) for shift in np.ndindex(3, 3)]
        known = np.roll(known, (1, 1), axis=(2, 3))
        distances = [((known[:, None] - s[:, None]) ** 2)[..., 4:-4, 4:-4].mean(axis=(3, 4)) for s in shifted]
        nearest = np.min(distances, axis=(0, 1)).argmin(axis=1)
        right += (nearest == np.arange(len(EXPRESSIONS))).sum()
    assert right / (3 * len(EXPRESSIONS)) > 0.7  # chance: 1 / 24


def open_mouth(identity, pose):
    """The middle (x, y) of the dark red inside of a shocked mouth, in pixels of 64."""
    r, g, b = draw(identity, pose, "shock", 0, 64, seed=0).astype(int).transpose(2, 0, 1)
    y, x = np.nonzero((r > 30) & (r < 90) & (r > 2.5 * g) & (r > 2 * b))
    assert len(x) > 10
    return np.median(x), np.median(y)


@pytest.mark.parametrize("identity", range(4))
def test_a_pose_moves_the_mouth_as_turning_the_head_does(identity):
    (left, _), (front, front_y), (right, _), (_, bird_y) = (
        open_mouth(identity, pose) for pose in ("half_left", "front", "half_right", "bird")
    )
    assert left < front - 5 and right > front + 5 and bird_y > front_y + 5


def test_half_left_is_not_a_mirrored_half_right():
    half_left, half_right = (
        draw(0, pose, "neutral", 0, 64, seed=0).astype(float) for pose in ("half_left", "half_right")
    )
    assert np.abs(half_left[:, ::-1] - half_right).mean() > 3


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match="no expression 'joj': did you mean joy"):
        draw(0, "front", "joj", 0, 16, seed=0)
    with pytest.raises(ConfigurationError, match="no pose 'left'"):
        draw(0, "left", "joy", 0, 16, seed=0)
