"""Damaged tables of labels: every row or picture is accounted for once, or one sentence names the table."""

import io
import re
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import damaged

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import celeba, ck_plus, fer2013, labelled_tree
from compgan_core.data.shards import assemble, in_chunks, write_shard
from compgan_core.errors import DataError


class Memory:
    """A source that is in memory."""

    name = "memory"

    def __init__(self, files):
        self._files = files

    def files(self):
        return iter(self._files.items())

    def find(self, *names):
        return next((file for file in self._files.items() if file[0].rpartition("/")[2] in names), None)


def outcome(read, files):
    """The items of an importer, checked to make a data set whose counts add up; None if it refuses the source."""
    try:
        items = list(read(Memory(files)))
    except DataError as error:
        assert "memory" in str(error) and len(str(error).splitlines()) == 1
        return None
    for item in items:
        assert isinstance(item, (Face, Skipped)) and item.key
        if isinstance(item, Face):
            assert 0 <= item.frame < 1 << 31 and item.partition in ("", "train", "validation", "test")
    for chunk in in_chunks(items):
        assert len(chunk) == len(items)
    return items


def counts_add_up(items, scratch):
    try:
        manifest, _ = assemble([write_shard(chunk, scratch) for chunk in in_chunks(items)], name="x")
    except DataError:
        return
    assert manifest.read == manifest.kept + len(manifest.quarantined) + len(manifest.duplicates)
    assert manifest.read + sum(manifest.excluded.values()) == len(items)


def pictures_once(items, files):
    """Every picture gives one face or one skipped file."""
    keys = [item.key for item in items if isinstance(item, Face) or item.reason != "listed, but there is no picture"]
    assert sorted(keys) == sorted(name.rpartition("/")[2] for name in files)


PIXELS = " ".join(str(value % 256) for value in range(48 * 48))
FER = "emotion,pixels,Usage\n" + "".join(
    f"{n},{PIXELS},{usage}\n" for n, usage in enumerate(["Training", "PublicTest", "PrivateTest", "Training"])
)
IMAGES = {f"00000{n}.jpg": b"P5 1 1 255\n" + bytes([n]) for n in range(1, 6)}
CELEBA = {
    "list_attr_celeba.txt": b"5\nBald Smiling Young\n" + b"".join(b"00000%d.jpg  1 -1  1\n" % n for n in range(1, 6)),
    "identity_CelebA.txt": b"".join(b"00000%d.jpg 288%d\n" % (n, n) for n in range(1, 6)),
    "list_eval_partition.txt": b"".join(b"00000%d.jpg %d\n" % (n, n % 3) for n in range(1, 6)),
}
COLUMNS = {
    "file": [*IMAGES],
    "identity": ["a", "a", "b", "b", None],
    "pose": ["left", "up", "left", "up", ""],
    "expression": ["joy", "joy", "sad", "sad", "joy"],
    "sequence": ["s", "s", "t", "t", ""],
    "frame": [1, 2, None, 4, 5],
    "partition": ["train", "val", "test", "", None],
}


def csv(columns):
    rows = zip(*columns.values(), strict=True)
    lines = [columns.keys(), *(["" if value is None else str(value) for value in row] for row in rows)]
    return "\n".join(map(",".join, lines)).encode()


def parquet(columns, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def test_every_line_of_a_damaged_fer2013_gives_one_face_or_one_broken_row(tmp_path):
    read = 0
    for content in damaged(FER.encode(), 600, seed=1):
        items = outcome(fer2013.read, {"fer2013.csv": content})
        lines = [line for line in re.split("\r\n|\r|\n", content.decode("utf-8-sig", "replace"))[1:] if line.strip()]
        assert items is None or len(items) == len(lines)
        read += items is not None
    assert read > 400
    counts_add_up(items or [], tmp_path / "shard")


@pytest.mark.parametrize("name", CELEBA)
def test_every_picture_beside_a_damaged_celeba_list_is_counted_once(tmp_path, name):
    read = 0
    for content in damaged(CELEBA[name], 400, seed=2):
        items = outcome(celeba.read, CELEBA | IMAGES | {name: content})
        if items is not None:
            read += 1
            pictures_once(items, CELEBA | IMAGES)
            if read % 20 == 0:
                counts_add_up(items, tmp_path / "shard")
    assert read > 200


def test_every_picture_beside_a_damaged_ck_plus_label_is_counted_once():
    frames = {f"S005_001_0000000{n}.png": bytes([n]) for n in range(1, 5)}
    for content in damaged(b"   3.0000000e+00\n", 400, seed=3):
        files = frames | {"S005_001_00000004_emotion.txt": content}
        items = outcome(ck_plus.read, files)
        pictures_once(items, files)
        assert sum(isinstance(item, Face) for item in items) in (0, 2)


TABLES = {
    "labels.csv": csv(COLUMNS),
    "plain.parquet": parquet(COLUMNS, compression="none"),
    "labels.parquet": parquet(COLUMNS, compression="zstd", use_dictionary=False),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_damaged_table_and_every_picture_is_counted_once(tmp_path, name):
    table = f"labels.{name.rpartition('.')[2]}"
    read = 0
    for content in damaged(TABLES[name], 700, seed=4):
        items = outcome(labelled_tree.read, IMAGES | {table: content})
        if items is not None:
            read += 1
            absent = [i for i in items if isinstance(i, Skipped) and "lists it" in i.reason]
            assert sorted(i.key for i in items if i not in absent) == sorted(IMAGES)
            if read % 20 == 0:
                counts_add_up(items, tmp_path / "shard")
    assert 10 < read < 690


def test_a_parquet_table_that_declares_more_than_it_holds_is_refused():
    content = TABLES["plain.parquet"]
    footer = struct.unpack("<I", content[-8:-4])[0]
    for declared in (0, footer - 1, footer + 1, len(content), 1 << 31, (1 << 32) - 1):
        cut = content[:-8] + struct.pack("<I", declared) + content[-4:]
        assert outcome(labelled_tree.read, IMAGES | {"labels.parquet": cut}) is None
