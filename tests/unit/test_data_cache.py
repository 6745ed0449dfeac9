import io
import multiprocessing
import pickle
from dataclasses import replace

import numpy as np
import pytest
from designs import complete
from PIL import Image

from compgan_core.data.cache import Faces, decode, decode_part, finish_cache, write_cache
from compgan_core.data.face import Face
from compgan_core.errors import DataError


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def noise():
    """24 faces of noise, 20 x 16, in an order that is not that of the keys."""
    rng = np.random.default_rng(0)
    labels = complete(3, 2, 4)
    faces = [
        Face(str(k), i, p, e, "", 0, png(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)))
        for k, i, p, e in zip(labels.key, *map(labels.named, ("identity", "pose", "expression")), strict=True)
    ]
    return [faces[n] for n in rng.permutation(24)]


def build(faces, directory, size=8, rows=7):
    directory.mkdir()
    parts = [
        decode_part(iter(part), len(part), size, directory / f"{n}.arrow")
        for n, part in enumerate(faces[i : i + rows] for i in range(0, len(faces), rows))
    ]
    finish_cache(directory, size, parts)


def test_a_cache_holds_what_decoding_gives_in_the_order_of_the_keys(noise, tmp_path):
    build(noise, tmp_path / "cache")
    faces = Faces.open(tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 4
    by_key = sorted(noise, key=lambda face: face.key)
    assert faces.size == 8 and faces.labels.key.tolist() == [face.key for face in by_key]
    assert faces.labels.named("expression") == [face.expression for face in by_key]
    rows = np.array([23, 0, 7, 7, 12])
    assert np.array_equal(faces.images(rows), [decode(by_key[row].image_bytes, 8, "center") for row in rows])


def test_a_cache_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="no face was left"):
        finish_cache(tmp_path, 8, [])


def test_written_pixels_come_back_with_the_vocabulary_asked_for(tmp_path):
    labels = complete(3, 2, 4)
    part = labels.take(np.array([3, 9, 20]))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    write_cache(pixels, part, tmp_path, part_bytes=2 * 8 * 8 * 3)
    plain, like = Faces.open(tmp_path), Faces.open(tmp_path, like=labels)
    assert np.array_equal(like.images(np.arange(3)), pixels)
    assert plain.labels.expressions != like.labels.expressions == labels.expressions
    assert np.array_equal(like.labels.expression, part.expression)


def test_a_view_keeps_rows_and_pixels_together(noise, tmp_path):
    build(noise, tmp_path / "cache")
    faces = Faces.open(tmp_path / "cache")
    view = faces.take(np.array([5, 2, 9])).take(np.array([2, 0]))
    assert view.labels.key.tolist() == faces.labels.key[[9, 5]].tolist()
    assert np.array_equal(view.images(np.arange(2)), faces.images(np.array([9, 5])))


def test_images_are_copies_of_a_map_that_cannot_be_written(noise, tmp_path):
    build(noise, tmp_path / "cache")
    faces = Faces.open(tmp_path / "cache")
    before = faces.images(np.array([1]))
    faces.images(np.array([1]))[:] = 0
    assert np.array_equal(faces.images(np.array([1])), before)
    assert all(not part.flags.writeable and not part.flags.owndata for part in faces._open_parts())


def test_faces_can_be_pickled_small_and_used_in_another_process(noise, tmp_path):
    build(noise, tmp_path / "cache", size=64)
    faces = Faces.open(tmp_path / "cache")
    pixels = faces.images(np.arange(24))
    assert len(pickle.dumps(faces)) < pixels.nbytes / 20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(faces.images, (np.arange(24),)), pixels)


def test_an_unfinished_cache_is_refused(noise, tmp_path):
    build(noise, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").unlink()
    with pytest.raises(DataError, match="no finished cache"):
        Faces.open(tmp_path / "cache")


def test_center_keeps_proportions_and_stretch_keeps_the_whole_picture():
    picture = np.zeros((10, 30), dtype=np.uint8)  # black left, gray middle, white right
    picture[:, 10:20], picture[:, 20:] = 100, 255
    center, stretch = decode(png(picture), 10, "center"), decode(png(picture), 30, "stretch")
    assert center.shape == (10, 10, 3) and (center == 100).all()
    assert (stretch[:, 2] == 0).all() and (stretch[:, -2] == 255).all()


def test_a_label_that_is_missing_stays_missing(tmp_path):
    labels = complete(1, 2, 2)
    labels = replace(labels, identity=np.array([-1, 0, -1, 0], dtype=np.int32))
    write_cache(np.zeros((4, 4, 4, 3), np.uint8), labels, tmp_path)
    assert Faces.open(tmp_path).labels.identity.tolist() == [-1, 0, -1, 0]
