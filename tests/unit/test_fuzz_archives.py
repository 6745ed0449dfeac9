"""Damaged and hostile archives: files, or one sentence that names the archive; and nothing is written anywhere."""

import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
from mutations import damaged, damaged_tars

from compgan_core.data.importers import archives, cmu_faces
from compgan_core.data.importers.archives import open_source
from compgan_core.data.shards import assemble, in_chunks, write_shard
from compgan_core.errors import DataError

FILES = {
    f"faces/an2i/an2i_{pose}_{mood}_open.pgm": b"P5 2 1 255\n" + bytes([1, n]) + bytes(n * 300)
    for n, (pose, mood) in enumerate([("left", "angry"), ("right", "happy"), ("up", "sad"), ("straight", "neutral")])
}
FILES |= {"faces/" + "long/" * 40 + "kk49_up_sad_open.pgm": b"P5 2 1 255\nab", "faces/kk49_up_sad_open.bad": b""}


def tar(format=tarfile.PAX_FORMAT):  # noqa: A002
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def zipped():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for number, (name, content) in enumerate(FILES.items()):
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return sink.getvalue()


def read_all(path, content):
    """The files of an archive with this content, or None if it was refused."""
    path.write_bytes(content)
    try:
        files = list(open_source(path).files())
    except DataError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
        return None
    for name, file in files:
        assert name and not name.startswith("/") and ".." not in name.split("/")
        assert len(name.encode().splitlines()) == 1 and len(file) < 1 << 20
    return files


def counts_add_up(path, scratch):
    try:
        items = list(cmu_faces.read(open_source(path), sunglasses="keep"))
        ledgers = [write_shard(chunk, scratch) for chunk in in_chunks(items)]
        manifest, labels = assemble(ledgers, name="x", source_format="cmu-faces")
    except DataError:
        return
    excluded = sum(manifest.excluded.values())
    assert manifest.read == manifest.kept + len(manifest.quarantined) + len(manifest.duplicates)
    assert manifest.read + excluded == len(items) and manifest.kept == len(labels)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three folders below a place in which nothing else may come to be, and the place to work in."""
    place = tmp_path / "place/a/b/c"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setattr(archives, "TABLE_BYTES", 1 << 20)
    yield place
    files = [path for path in (tmp_path / "place").rglob("*") if path.is_file()]
    assert len(files) == 1 and files[0].parent == place


FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_tar_gives_files_or_one_sentence(folder, tmp_path, format):  # noqa: A002
    read = [read_all(folder / "source.tar", c) for c in damaged_tars(tar(FORMATS[format]), 1000, seed=1)]
    assert len(read) == 1000 and 100 < read.count(None) < 900
    for content in damaged_tars(tar(FORMATS[format]), 50, seed=2):
        (folder / "source.tar").write_bytes(content)
        counts_add_up(folder / "source.tar", tmp_path / "shard")


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_damaged_compressed_tar_gives_every_file_unchanged_or_one_sentence(folder, ending):
    packed = gzip.compress(tar(), 1, mtime=0) if ending == "gz" else lzma.compress(tar(), preset=0)
    read = [read_all(folder / f"source.tar.{ending}", content) for content in damaged(packed, 1000, seed=3)]
    assert len(read) == 1000 and read.count(None) > 900
    assert all(dict(files) == FILES for files in read if files is not None)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_a_compressed_damaged_tar_gives_files_or_one_sentence(folder, pack):
    read = [read_all(folder / "source.tar.gz", pack(content)) for content in damaged_tars(tar(), 150, seed=4)]
    assert len(read) == 150 and 15 < read.count(None) < 135


def test_a_damaged_zip_gives_every_picture_unchanged_or_empty_or_one_sentence(folder, tmp_path):
    pictures = {name: content for name, content in FILES.items() if name.endswith("pgm")}
    read = [read_all(folder / "source.zip", content) for content in damaged(zipped(), 2000, seed=5)]
    assert len(read) == 2000 and read.count(None) > 1500
    for files in filter(None, read):
        found = {name: content for name, content in files if name.endswith("pgm")}
        assert found == pictures | {name: b"" for name, content in found.items() if not content}  # will be quarantined
    for content in damaged(zipped(), 50, seed=6):
        (folder / "source.zip").write_bytes(content)
        counts_add_up(folder / "source.zip", tmp_path / "shard")
