import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compgan_core.data.face import Face, Skipped
from compgan_core.data.shards import read_images, read_labels, read_manifest, write_dataset
from compgan_core.errors import ConfigurationError, DataError


def picture(value):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "png")
    return buffer.getvalue()


def face(number, **changes):
    labels = {"identity": f"i{number % 3}", "pose": "front", "expression": "joy", "sequence": "", "frame": number}
    return Face(**({"key": f"{number:02d}.png", **labels, "image_bytes": picture(number)} | changes))


FACES = [face(n) for n in range(10)]
FACES_AND_COPIES = [*FACES, face(3, key="99.png"), face(5, key="00b.png")]


def test_faces_come_back_as_they_went_in(tmp_path):
    manifest = write_dataset(FACES, tmp_path, name="ten", source_format="test", rows_per_shard=4)
    assert [file.rows for file in manifest.files] == [4, 4, 2]
    assert list(read_images(tmp_path)) == FACES
    assert read_labels(tmp_path).named("identity") == [f.identity for f in FACES]
    assert read_manifest(tmp_path) == manifest


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(FACES_AND_COPIES), rows=st.integers(1, 13))
def test_the_digest_depends_on_the_faces_alone(tmp_path_factory, order, rows):
    directory = tmp_path_factory.mktemp("set")
    manifest = write_dataset(order, directory, name="x", rows_per_shard=rows)
    assert manifest.digest == write_dataset(FACES_AND_COPIES, tmp_path_factory.mktemp("set"), name="y").digest
    assert [(d.key, d.copy_of) for d in manifest.duplicates] == [("05.png", "00b.png"), ("99.png", "03.png")]
    assert (manifest.read, manifest.kept) == (12, 10)
    assert sorted(f.key for f in read_images(directory)) == read_labels(directory).key.tolist()
    assert "05.png" not in read_labels(directory).key


def test_the_digest_changes_with_a_label_or_a_picture(tmp_path):
    variants = [FACES, [face(0, pose="left"), *FACES[1:]], [face(0, image_bytes=picture(99)), *FACES[1:]]]
    digests = {write_dataset(v, tmp_path / str(n), name="x").digest for n, v in enumerate(variants)}
    assert len(digests) == 3


BROKEN = {
    "empty": b"",
    "text": b"not a picture",
    "cut": picture(7)[:-20],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_picture_stops_the_import_and_names_the_way_on(tmp_path, kind):
    faces = [FACES[0], face(1, image_bytes=BROKEN[kind]), FACES[2]]
    with pytest.raises(DataError, match=r"^01\.png: the file is .*--keep-going$"):
        write_dataset(faces, tmp_path, name="x")
    assert not (tmp_path / "manifest.json").exists()


def test_broken_pictures_are_listed_and_counted_when_kept_going(tmp_path):
    broken = [face(n, image_bytes=data) for n, data in enumerate(BROKEN.values(), start=20)]
    missing = Skipped("gone.png", "labels.csv lists it, but it is not there", broken=True)
    faces = [*FACES, *broken, missing, face(3), Skipped("notes.txt", "not an image")]
    manifest = write_dataset(faces, tmp_path, name="x", on_bad="quarantine")
    assert (manifest.read, manifest.kept) == (15, 10)
    assert [q.key for q in manifest.quarantined] == ["20.png", "21.png", "22.png", "gone.png", "03.png"]
    assert manifest.quarantined[-1].reason == "the source lists it twice"
    assert manifest.excluded == {"not an image": 1}
    assert read_manifest(tmp_path) == manifest


def test_an_import_that_dies_leaves_no_manifest(tmp_path):
    def dying():
        yield from FACES
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(dying(), tmp_path, name="x", rows_per_shard=3)
    with pytest.raises(DataError, match="no finished data set"):
        read_labels(tmp_path)
    assert write_dataset(FACES, tmp_path, name="x").kept == 10


def test_a_finished_data_set_is_not_written_over(tmp_path):
    write_dataset(FACES, tmp_path, name="x")
    with pytest.raises(ConfigurationError, match="already holds a data set"):
        write_dataset(FACES, tmp_path, name="x")


def test_a_shortened_shard_is_noticed(tmp_path):
    manifest = write_dataset(FACES, tmp_path, name="x")
    shard = tmp_path / manifest.files[0].name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match="but the manifest says"):
        read_labels(tmp_path)


def test_a_source_without_faces_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no face was found in 'x' as cmu-faces \(2 not a face image\)"):
        write_dataset([Skipped("a", "not a face image")] * 2, tmp_path, name="x", source_format="cmu-faces")


def test_a_missing_label_is_kept_as_missing(tmp_path):
    write_dataset([face(0, identity="", pose=""), face(1)], tmp_path, name="x")
    assert read_labels(tmp_path).identity.tolist() == [-1, 0]
    assert np.array_equal(read_labels(tmp_path).pose, [-1, 0])
