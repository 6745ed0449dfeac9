import io
import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compgan_core.data.face import Face, Skipped
from compgan_core.data.shards import (
    LEDGER,
    SHARD,
    assemble,
    chunk_digest,
    image_defect,
    in_chunks,
    labels_of,
    read_label_table,
    read_labels,
    read_manifest,
    read_shard,
    write_head,
    write_shard,
)
from compgan_core.errors import DataError


def picture(value):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "png")
    return buffer.getvalue()


def face(number, **changes):
    labels = {"identity": f"i{number % 3}", "pose": "front", "expression": "joy", "sequence": "", "frame": number}
    return Face(**({"key": f"{number:02d}.png", **labels, "image_bytes": picture(number)} | changes))


FACES = [face(n) for n in range(10)]
FACES_AND_COPIES = [*FACES, face(3, key="99.png"), face(5, key="00b.png")]


def write(faces, directory, rows=4):
    """Shards as files numbered from 0, and the manifest and the labels of all."""
    directory.mkdir(exist_ok=True)
    ledgers = [write_shard(chunk, directory / f"{n}.parquet") for n, chunk in enumerate(in_chunks(faces, rows=rows))]
    return assemble(ledgers, name="x", source_format="test")


def read_kept(labels, directory):
    """The faces that the labels name, in their order, out of the shards."""
    for place in labels.select(["shard", "row"]).to_pylist():
        yield from read_shard(directory / f"{place['shard']}.parquet", [place["row"]])


def test_faces_come_back_as_they_went_in(tmp_path):
    faces = [face(1, partition="test", attributes=("Smiling", "Young")), face(2, sequence="s", frame=7), *FACES[3:]]
    manifest, labels = write(faces, tmp_path)
    assert list(read_kept(labels, tmp_path)) == faces
    assert [*read_shard(tmp_path / "1.parquet")] == faces[4:8]
    write_head(tmp_path, manifest, labels)
    assert read_manifest(tmp_path) == manifest
    assert read_label_table(tmp_path) == labels
    assert read_labels(tmp_path).named("identity") == [f.identity for f in faces]
    assert read_labels(tmp_path).partition.tolist() == [f.partition for f in faces]


def test_chunks_are_bounded_in_rows_and_in_bytes():
    assert [len(chunk) for chunk in in_chunks(FACES, rows=4)] == [4, 4, 2]
    bound = 3 * len(picture(0))
    assert [len(chunk) for chunk in in_chunks(FACES, size_bytes=bound)] == [3, 3, 3, 1]


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(FACES_AND_COPIES), rows=st.integers(1, 13))
def test_the_digest_depends_on_the_faces_alone(tmp_path_factory, order, rows):
    directory = tmp_path_factory.mktemp("set")
    manifest, labels = write(order, directory, rows)
    assert manifest.digest == write(FACES_AND_COPIES, tmp_path_factory.mktemp("set"))[0].digest
    assert [(d.key, d.copy_of) for d in manifest.duplicates] == [("05.png", "00b.png"), ("99.png", "03.png")]
    assert (manifest.read, manifest.kept) == (12, 10)
    assert [f.key for f in read_kept(labels, directory)] == labels_of(labels).key.tolist()
    assert "05.png" not in labels_of(labels).key


def test_the_digest_of_a_chunk_and_of_a_set_change_with_a_label_or_a_picture(tmp_path):
    variants = [
        FACES,
        [face(0, pose="left"), *FACES[1:]],
        [face(0, image_bytes=picture(99)), *FACES[1:]],
        [face(0, partition="test"), *FACES[1:]],
    ]
    assert len({write(v, tmp_path / str(n))[0].digest for n, v in enumerate(variants)}) == 4
    assert len({chunk_digest(next(in_chunks(v))) for v in variants}) == 4
    assert chunk_digest(next(in_chunks(FACES))) == chunk_digest(next(in_chunks(FACES)))


BROKEN = {
    "empty": b"",
    "text": b"not a picture",
    "cut": picture(7)[:-20],
}


def test_broken_and_repeated_files_are_listed_and_counted(tmp_path):
    broken = [face(n, image_bytes=data) for n, data in enumerate(BROKEN.values(), start=20)]
    missing = Skipped("gone.png", "labels.csv lists it, but it is not there", broken=True)
    faces = [*FACES, *broken, missing, face(3, image_bytes=picture(77)), Skipped("notes.txt", "not an image")]
    manifest, labels = write(faces, tmp_path)
    assert (manifest.read, manifest.kept) == (15, 10)
    assert [q.key for q in manifest.quarantined] == ["20.png", "21.png", "22.png", "gone.png", "03.png"]
    assert manifest.quarantined[-1].reason == "the source lists it twice"
    assert manifest.excluded == {"not an image": 1}
    assert list(read_kept(labels, tmp_path)) == FACES


def test_shards_and_ledgers_have_their_schemas_whatever_they_hold(tmp_path):
    for faces in ([Skipped("a", "no")], FACES[:1]):
        ledger = write_shard(next(in_chunks(faces)), tmp_path / "shard")
        assert ledger.schema == LEDGER and pa.parquet.read_schema(tmp_path / "shard").equals(SHARD)


def bomb(width, height):
    """A PNG of a few bytes that claims to be as large as this."""

    def block(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(b"")) + block(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_picture_that_claims_to_be_huge_is_not_decoded(side):
    assert "pixels" in image_defect(bomb(side, side))


def test_labels_that_do_not_belong_to_the_manifest_are_noticed(tmp_path):
    manifest, labels = write(FACES, tmp_path)
    write_head(tmp_path, manifest, labels.slice(1))
    with pytest.raises(DataError, match="has 9 rows, but the manifest says 10"):
        read_labels(tmp_path)
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.model_dump() | {"read": 99}))
    with pytest.raises(DataError, match="not a manifest"):
        read_labels(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished data set"):
        read_labels(tmp_path)


def test_a_source_without_faces_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no face was found in 'x' as test \(2 not a face image\)"):
        write([Skipped("a", "not a face image")] * 2, tmp_path)
    with pytest.raises(DataError, match="no files"):
        write([], tmp_path)


def test_a_missing_label_is_kept_as_missing(tmp_path):
    labels = labels_of(write([face(0, identity="", pose=""), face(1)], tmp_path)[1])
    assert labels.identity.tolist() == [-1, 0]
    assert np.array_equal(labels.pose, [-1, 0])
