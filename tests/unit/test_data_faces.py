import io
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compgan_core.data.faces import POSES, Camera, draw, render
from compgan_core.data.importers.procedural import DEMO_EXPRESSIONS, Cast, read
from compgan_core.data.looks import EXPRESSIONS, at_strength, person
from compgan_core.errors import ConfigurationError
from compgan_core.randomness import generator
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.drawn import Drawn, draw_dataset

# The names of the rendered stand-in for F2ED.
F2ED = """
acceptance admiration aggression amusement angry anticipation anxiety apathy arrogance awe boredom bravery calm
concentration confusion contempt curiosity defiance desire despair determination disappointment disbelief disgust
doubt ecstasy embarrassed envy fatigue fear frustration gratitude grief guilt hate hope irritation joy love neutral
nostalgia optimism pain panic pity pride relief sadness shame shock surprise suspicion tension worry
""".split()


MEASURED = {  # mean colours, from before the 54
    (0, "front", "joy"): (166.77, 168.5, 162.71),
    (5, "half_left", "grief"): (134.01, 128.6, 127.93),
    (9, "bird", "panic"): (131.63, 114.94, 111.14),
    (14, "half_right", "disgust"): (156.53, 141.88, 118.97),
}


def test_the_expressions_are_the_54_of_f2ed():
    assert sorted(EXPRESSIONS) == F2ED and len(F2ED) == 54


def test_any_two_expressions_differ_by_two_full_muscles():
    looks = np.array([look._replace(nod=look.nod / 10, tilt=look.tilt / 10) for look in EXPRESSIONS.values()])
    for a, b in itertools.combinations(looks, 2):
        assert np.abs(a - b).sum() > 2


@pytest.mark.parametrize("identity", (0, 9))  # light skin and dark
def test_a_face_is_nearest_to_its_expression_by_far_though_the_head_is_still(identity):
    who = person(identity, seed=0)

    def seen(look):
        return 255 * render(who, look._replace(nod=0, tilt=0), Camera(yaw=0, pitch=0), size=64)

    full = np.stack([seen(look) for look in EXPRESSIONS.values()])
    moments = (at_strength(look, generator(0, "moment", name)) for name, look in EXPRESSIONS.items())
    distance = np.stack([np.abs(full - seen(moment)).mean(axis=(1, 2, 3)) for moment in moments])
    within, between = np.diag(distance), distance + np.diag([np.inf] * len(full))
    assert (between.min(axis=1) > 1.5 * within).all()


def test_the_faces_of_the_demo_stay_as_they_were_measured():
    assert len(DEMO_EXPRESSIONS) == 24
    for (identity, pose, expression), colour in MEASURED.items():
        assert draw(identity, pose, expression, 0, 48, seed=0).mean(axis=(0, 1)) == pytest.approx(colour, abs=0.05)


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

    def faces(frame):
        grey = np.stack([draw(2, "front", name, frame, 32, seed=0) for name in EXPRESSIONS]).mean(axis=3)
        return grey - grey.mean(axis=(1, 2), keepdims=True)

    known, unknown = np.stack([faces(frame) for frame in range(1, 6)]), faces(0)
    known = np.roll(known, (1, 1), axis=(2, 3))
    shifted = [np.roll(unknown, shift, axis=(1, 2)) for shift in np.ndindex(3, 3)]
    distances = [((known[:, None] - s[:, None]) ** 2)[..., 4:-4, 4:-4].mean(axis=(3, 4)) for s in shifted]
    right = np.min(distances, axis=(0, 1)).argmin(axis=1) == np.arange(len(EXPRESSIONS))
    assert right.mean() > 0.6  # chance: 1 / 54


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


CAST = Cast(identities=2, expressions=("joy", "grief"), frames=2, size=16, seed=3)


def test_the_faces_of_a_cast_can_be_drawn_in_any_order_and_process():
    faces = [*read(identities=2, expressions=("joy", "grief"), frames=2, size=16, seed=3)]
    elsewhere = pickle.loads(pickle.dumps(CAST))
    assert [elsewhere.face(number) for number in reversed(range(len(CAST)))] == faces[::-1]


@pytest.mark.parametrize("encoding", ("png", "jpeg"))
def test_pictures_come_in_both_formats(encoding):
    face = Cast(1, ("joy",), 1, 48, 0, encoding).face(1)
    image = Image.open(io.BytesIO(face.image_bytes))
    assert image.format == encoding.upper() and face.key == f"p000/front/joy_0.{encoding}"
    assert np.abs(np.asarray(image).astype(int) - draw(0, "front", "joy", 0, 48, seed=0)).mean() < 3


def test_a_cast_is_of_known_expressions_each_once():
    with pytest.raises(ConfigurationError, match="no expression 'joj': did you mean joy"):
        Cast(1, ("joj",), 1, 16, 0)
    with pytest.raises(ConfigurationError, match="asked for 'joy' twice"):
        Cast(1, ("joy", "joy"), 1, 16, 0)


def test_chunks_hold_each_face_once():
    drawn = Drawn(Cast(identities=257, expressions=("joy",), frames=1, size=16, seed=0))
    _, last = drawn.items()
    assert drawn.chunk(last)["key"].to_pylist() == [f"p256/{pose}/joy_0.png" for pose in POSES]
    large = Drawn(Cast(identities=2, expressions=("joy",), frames=1, size=4096, seed=0))
    assert len([*large.items()]) == 8  # a chunk has bounded bytes, too


@pytest.mark.parametrize("expressions, drawn", (("2", 2), ("joy,grief,neutral", 3)))
def test_a_dataset_is_complete(tmp_path: Path, expressions, drawn):
    artifacts = Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))
    sizes = {"identities": 2, "frames": 1, "size": 16, "seed": 0, "format": "jpeg"}
    dataset = draw_dataset(artifacts, "drawn", expressions=expressions, **sizes)
    assert dataset.manifest.read == dataset.manifest.kept == len(dataset.labels(artifacts).cells()) == 2 * 4 * drawn


@pytest.mark.parametrize("expressions", ("0", "55"))
def test_no_more_expressions_are_drawn_than_there_are(tmp_path: Path, expressions):
    artifacts = Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))
    with pytest.raises(ConfigurationError, match=f"there are 54 expressions, not {expressions}"):
        draw_dataset(artifacts, "drawn", identities=1, expressions=expressions, frames=1, size=16, seed=0, format="png")
