import io
import lzma
import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from sources import PACKINGS, pack, source_of

from compgan_core.data.importers import archives
from compgan_core.data.importers.archives import open_source
from compgan_core.errors import DataError

FILES = {f"faces/{n}.bin": random.Random(n).randbytes(10_000 * n) for n in range(1, 5)}


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_gives_the_same_files_without_what_macos_adds(tmp_path, packing):
    junk = {"faces/._1.bin": b"x", "__MACOSX/faces/1.bin": b"x", "faces/.DS_Store": b"x"}
    source = source_of(tmp_path / f"source.{packing}", junk | FILES)
    assert dict(source.files()) == FILES
    assert dict(pickle.loads(pickle.dumps(source)).files()) == FILES


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_nearest_file_of_a_name_is_found(tmp_path, packing):
    files = {"a/b/labels.csv": b"deep", "a/labels.csv": b"near", "z/other.csv": b"other"}
    source = source_of(tmp_path / f"source.{packing}", files)
    assert source.find("labels.csv", "labels.parquet") == ("a/labels.csv", b"near")
    assert source.find("none.csv") is None


def test_a_table_by_itself_is_a_source(tmp_path):
    (tmp_path / "fer2013.csv").write_text("x")
    assert list(open_source(tmp_path / "fer2013.csv").files()) == [("fer2013.csv", b"x")]


@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_an_archive_in_a_directory_is_read_as_the_folder_it_unpacks_to(tmp_path, packing):
    tree = tmp_path / "tree"
    pack(tree, {"list.txt": b"x"})
    (tree / "Img").mkdir()
    pack(tree / f"Img/faces.{packing}", {"faces/1.jpg": b"1", "more/2.jpg": b"2"})
    assert dict(open_source(tree).files()) == {
        "list.txt": b"x",
        "Img/faces/1.jpg": b"1",
        "Img/faces/more/2.jpg": b"2",
    }
    assert open_source(tree).find("2.jpg") == ("Img/faces/more/2.jpg", b"2")
    pack(tree / "Img", {"faces/3.jpg": b"3"})
    assert dict(open_source(tree).files()) == {"list.txt": b"x", "Img/faces/3.jpg": b"3"}


def test_a_file_that_is_called_as_an_ending_is_passed_over(tmp_path):
    assert dict(source_of(tmp_path / "tree", {".zip": b"x", "a.png": b"1"}).files()) == {"a.png": b"1"}


@pytest.mark.parametrize("packing", PACKINGS[1:])
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_named_with_its_last_whole_member(tmp_path, packing, fraction):
    source = pack(tmp_path / f"source.{packing}", FILES)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * fraction)])
    seen = []
    with pytest.raises(DataError, match=rf"source\.{packing} is truncated") as error:
        seen.extend(name for name, _ in open_source(source).files())
    assert f"the last member read whole was {seen[-1] if seen else 'none'}" in str(error.value)


def test_a_tar_cut_exactly_between_two_members_is_truncated_too(tmp_path):
    source = pack(tmp_path / "source.tar", FILES)
    with tarfile.open(source) as archive:
        third = archive.getmembers()[2].offset
    source.write_bytes(source.read_bytes()[:third])
    with pytest.raises(DataError, match=r"truncated .* was faces/2\.bin"):
        list(open_source(source).files())


def test_an_xz_file_of_several_streams_with_padding_is_read_whole(tmp_path):
    source = pack(tmp_path / "source.tar", FILES)
    half = source.stat().st_size // 2
    streams = lzma.compress(source.read_bytes()[:half]) + bytes(8) + lzma.compress(source.read_bytes()[half:])
    (tmp_path / "source.tar.xz").write_bytes(streams + bytes(4))
    assert dict(open_source(tmp_path / "source.tar.xz").files()) == FILES


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "faces/../../evil", "..\\evil", "faces/evil\0.png"])
@pytest.mark.parametrize("packing", ["tar", "zip"])
def test_members_that_lead_out_of_the_archive_are_refused(tmp_path, packing, name):
    if packing == "tar":
        with tarfile.open(tmp_path / "source.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("x")
            member.pax_headers = {"path": name}
            archive.addfile(member)
    else:
        with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
            member = zipfile.ZipInfo("x" * len(name))
            archive.writestr(member, b"")
        path = tmp_path / "source.zip"
        path.write_bytes(path.read_bytes().replace(b"x" * len(name), name.encode()))
    with pytest.raises(DataError, match="leads out of the archive"):
        list(open_source(tmp_path / f"source.{packing}").files())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("faces/a.png")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"contains the link faces/a\.png"):
        list(open_source(tmp_path / "a.tar").files())


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V"])
def test_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        device = tarfile.TarInfo("faces/a.png")
        device.type = kind
        archive.addfile(device)
    with pytest.raises(DataError, match="neither a plain file nor a folder"):
        list(open_source(tmp_path / "a.tar").files())


@pytest.mark.parametrize(("mode", "sentence"), [(0o120777, "the link a.png"), (0o020666, "neither a plain file")])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode, sentence):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("a.png")
        member.external_attr = mode << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match=sentence):
        list(open_source(tmp_path / "a.zip").files())


def test_links_in_a_directory_may_not_lead_out_of_it(tmp_path):
    tree = pack(tmp_path / "tree", {"real/a.png": b"1"})
    (tree / "b.png").symlink_to(tree / "real" / "a.png")
    (tree / "folder").symlink_to(tree / "real")
    assert dict(open_source(tree).files()) == {"b.png": b"1", "real/a.png": b"1"}
    for target in ("/etc/passwd", "/etc"):
        (tree / "c.png").unlink(missing_ok=True)
        (tree / "c.png").symlink_to(target)
        with pytest.raises(DataError, match="a link that leads out"):
            list(open_source(tree).files())


@pytest.mark.parametrize("target", ["nowhere", "a.png"])
def test_links_that_lead_nowhere_and_pipes_are_refused(tmp_path, target):
    (tmp_path / "a.png").symlink_to(target)
    with pytest.raises(DataError, match="contains the link"):
        list(open_source(tmp_path).files())
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="neither a plain file nor a folder"):
        list(open_source(tmp_path).files())
    with pytest.raises(DataError, match="is not a file"):
        open_source(tmp_path / "a.png")


def test_a_file_that_is_no_archive_is_refused_in_one_line(tmp_path):
    (tmp_path / "notes.doc").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.doc is truncated or damaged") as error:
        list(open_source(tmp_path / "notes.doc").files())
    assert "\n" not in str(error.value)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.tar does not exist"):
        open_source(tmp_path / "nowhere.tar")


def test_names_in_no_known_encoding_become_text(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    Path(os.fsdecode(os.fsencode(tree) + b"/f\xff.png")).write_bytes(b"1")
    assert list(open_source(tree).files()) == [("f\\udcff.png", b"1")]


@pytest.mark.parametrize("packing", PACKINGS)
def test_bombs_are_not_taken_in(tmp_path, packing, monkeypatch):
    monkeypatch.setattr(archives, "PICTURE_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "TABLE_BYTES", 2 << 20)
    files = {"a.csv": bytes(2 << 20), "b.png": bytes(1 << 20), "c.bin": bytes((1 << 20) + 1)}
    assert [n for n, _ in source_of(tmp_path / f"good.{packing}", files).files()] == ["a.csv", "b.png"]
    for name, size in (("a.csv", 2 << 20), ("b.png", 1 << 20)):
        source = source_of(tmp_path / f"{name}.{packing}", {name: bytes(size + 1)})
        with pytest.raises(DataError, match=f"contains {name}, which has more than {size >> 20} MiB"):
            list(source.files())


def test_a_zip_that_declares_less_than_it_holds_is_damaged(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": bytes(5000)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<LL", 5000, 5000), struct.pack("<LL", 5000, 10)))
    with pytest.raises(DataError, match="Bad CRC-32"):
        list(open_source(path).files())


def test_a_zip_whose_list_of_members_is_cut_is_damaged(tmp_path):
    path = pack(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(path) as archive:
        start, members = archive.start_dir, archive.infolist()
    skipped = 46 + len(members[0].filename)
    content, end = path.read_bytes(), len(path.read_bytes()) - 22
    size = end - start
    record = content[end : end + 12] + struct.pack("<LL", size - skipped, start + skipped) + content[end + 20 :]
    path.write_bytes(content[:end] + record)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == len(FILES) - 1  # what it would be taken for
    with pytest.raises(DataError, match="declares 4 members and lists 3"):
        list(open_source(path).files())


def test_a_tar_with_a_zeroed_header_is_damaged(tmp_path):
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[third : third + 512] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(DataError, match="more after its end mark"):
        list(open_source(path).files())


def test_an_encrypted_zip_is_refused(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"1"})
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    content = bytearray(path.read_bytes())
    content[directory + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png, encrypted"):
        list(open_source(path).files())


def header(name, kind, size):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [1 << 62, 8 << 30, -512, -(1 << 40)])
def test_a_header_that_declares_a_monstrous_size_is_damage(tmp_path, kind, size):
    (tmp_path / "a.tar").write_bytes(header("a.png", kind, size) + bytes(2048))
    with pytest.raises(DataError, match=r"a\.tar (is truncated or damaged|contains)"):
        list(open_source(tmp_path / "a.tar").files())


def test_headers_of_headers_without_end_are_damage(tmp_path):
    (tmp_path / "a.tar").write_bytes((header("x", tarfile.GNUTYPE_LONGNAME, 2) + b"y\0" + bytes(510)) * 3000)
    with pytest.raises(DataError, match="maximum recursion"):
        list(open_source(tmp_path / "a.tar").files())


def test_an_xz_file_that_claims_four_gibibytes_of_memory_is_damage(tmp_path):
    path = pack(tmp_path / "a.tar.xz", FILES)
    content = bytearray(path.read_bytes())
    length = (content[12] + 1) * 4
    block = content[12 : 12 + length - 4]
    block[block.index(b"\x21\x01") + 2] = 40  # the largest dictionary there is
    content[12 : 12 + length] = block + struct.pack("<L", zlib.crc32(block))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"[Mm]emory usage limit"):
        list(open_source(path).files())


def test_a_sparse_member_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 4
        member.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 50)}
        archive.addfile(member, io.BytesIO(b"1234"))
    with pytest.raises(DataError, match="neither a plain file"):
        list(open_source(tmp_path / "a.tar").files())
