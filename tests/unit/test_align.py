import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from compgan_core.data.align import Landmarks, crop_to_picture

SIZE = 256
FRONTAL = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5], [-0.3, 1 / 0.9], [0.3, 1 / 0.9]])
"""Five points; the distance of the eyes is the unit, and equal to 0.9 times that to the mouth."""


def in_crop(points, transform=None):
    """Where points of the picture are in the crop that `points`, or the transform, gives."""
    transform = crop_to_picture(Landmarks.from_five(points), SIZE) if transform is None else transform
    return np.linalg.solve(transform[:, :2], (points - transform[:, 2]).T).T


def moved(points, scale, degrees, shift):
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return scale * points @ np.array([[cosine, sine], [-sine, cosine]]) + shift


similarities = st.tuples(
    st.floats(5, 2000), st.floats(-60, 60), st.tuples(st.floats(-1000, 5000), st.floats(-1000, 5000))
)
wide = st.floats(0.4, 1.2)


@given(similarities, wide, wide)
def test_wherever_a_face_is_its_crop_is_the_same(how, width, height):
    face = FRONTAL * [width, height]
    assert_allclose(in_crop(moved(face, *how)), in_crop(face), atol=1e-6)


@given(similarities, wide, wide)
def test_eyes_are_level_a_third_from_the_top_and_in_the_middle(how, width, height):
    left, right = in_crop(moved(FRONTAL * [width, height], *how))[:2]
    assert_allclose((left + right) / 2, [SIZE / 2 - 0.5, SIZE / 3 - 0.5], atol=1e-6)
    assert abs(left[1] - right[1]) < 1e-6 and left[0] < right[0]


def test_the_mouth_of_a_frontal_face_is_a_third_below_the_eyes_as_in_lightcnn():
    points = in_crop(FRONTAL)
    assert_allclose(points[3:].mean(axis=0) - points[:2].mean(axis=0), [0, SIZE / 3], atol=1e-9)


def test_turning_or_nodding_a_face_does_not_change_its_scale():
    def scale(points):
        return np.hypot(*crop_to_picture(Landmarks.from_five(points), SIZE)[:, 0])

    for turned in (FRONTAL * [0.7, 1], FRONTAL * [1, 0.87]):
        assert_allclose(scale(turned), scale(FRONTAL))


def test_eyes_at_one_point_as_in_a_full_profile_leave_the_picture_upright():
    transform = crop_to_picture(Landmarks.from_five(FRONTAL * [0, 1]), SIZE)
    assert_allclose(transform[:, :2], np.eye(2) * transform[0, 0])
