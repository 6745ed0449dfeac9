"""A damaged data set: what it held, or one sentence that names the file."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import damaged
from PIL import Image

from compgan_core.data.face import Face, Skipped
from compgan_core.data.shards import (
    assemble,
    in_chunks,
    read_labels,
    read_manifest,
    read_shard,
    write_head,
    write_shard,
)
from compgan_core.errors import DataError


def picture(number):
    sink = io.BytesIO()
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(sink, "png")
    return sink.getvalue()


FACES = [
    Face(f"{n:02d}", f"id{n % 3}", ("left", "up")[n % 2], "joy", f"s{n // 4}", n % 4, picture(n), "train", ("Smiling",))
    for n in range(30)
]


@pytest.fixture
def dataset(tmp_path):
    items = [*FACES, Skipped("bad.png", "broken", broken=True), Skipped("notes.txt", "not an image")]
    (chunk,) = in_chunks(items)
    write_head(tmp_path, *assemble([write_shard(chunk, tmp_path / "faces.parquet")], name="x"))
    return tmp_path


def read_all(path, read, count, seed):
    """What is read from damaged copies of a file; None for each that was refused."""
    found = []
    for content in damaged(path.read_bytes(), count, seed):
        path.write_bytes(content)
        try:
            found.append(read())
        except DataError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
            found.append(None)
    return found


def test_a_damaged_manifest_is_refused_or_its_counts_add_up(dataset):
    whole = read_manifest(dataset)
    found = read_all(dataset / "manifest.json", lambda: read_manifest(dataset), 1200, seed=1)
    assert len(found) == 1200 and found.count(None) > 900
    for manifest in filter(None, found):
        assert manifest.read == manifest.kept + len(manifest.quarantined) + len(manifest.duplicates)
    assert whole in found


def test_damaged_labels_are_refused_or_as_many_as_the_manifest_says(dataset):
    found = read_all(dataset / "labels.parquet", lambda: len(read_labels(dataset)), 700, seed=3)
    assert len(found) == 700 and found.count(None) > 500 and set(found) == {None, len(FACES)}


@pytest.mark.parametrize("column", ["pose", "frame"])
def test_labels_without_a_value_are_refused(dataset, column):
    path = dataset / "labels.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    nothing = pa.nulls(len(table), table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), nothing), path)
    with pytest.raises(DataError, match="labels.parquet"):
        read_labels(dataset)


def test_labels_that_are_no_text_are_refused(dataset):
    path = dataset / "labels.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("pose")
    bad = pa.array([b"\xff"] * len(table), pa.binary()).view(pa.string())
    pq.write_table(table.set_column(place, table.schema.field(place), bad), path)
    with pytest.raises(DataError, match="labels.parquet"):
        read_labels(dataset)


def test_a_damaged_shard_gives_faces_or_is_refused(dataset):
    """That they are the right faces is for the checksums to say, with which shards are fetched."""
    path = dataset / "faces.parquet"
    found = read_all(path, lambda: [*read_shard(path)], 500, seed=5)
    assert len(found) == 500 and 250 < found.count(None) < 500
