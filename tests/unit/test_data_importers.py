import io
import os
import random
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import FORMATS, archives, cmu_faces, labelled_tree, procedural
from compgan_core.data.shards import write_dataset
from compgan_core.errors import DataError

DATA = Path(os.environ.get("COMPGAN_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILES = {f"faces/{n}.bin": random.Random(n).randbytes(10_000 * n) for n in range(1, 5)}
PACKINGS = ("directory", "tar", "tar.gz", "tar.xz", "zip")


def shared(name):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in {DATA}; set COMPGAN_DATA to the folder that has it")
    return DATA / name


def pack(tmp_path, packing, files):
    source = tmp_path / f"source.{packing}"
    if packing == "directory":
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    elif packing == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(source, f"w:{packing[4:]}") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return source


def split(items):
    items = list(items)
    skipped = [item for item in items if isinstance(item, Skipped)]
    return [item for item in items if isinstance(item, Face)], Counter(item.reason for item in skipped)


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_gives_the_same_files_without_what_macos_adds(tmp_path, packing):
    junk = {"faces/._1.bin": b"x", "__MACOSX/faces/1.bin": b"x", "faces/.DS_Store": b"x"}
    assert dict(archives.files(pack(tmp_path, packing, junk | FILES))) == FILES


@pytest.mark.parametrize("packing", PACKINGS[1:])
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_named_with_its_last_whole_member(tmp_path, packing, fraction):
    source = pack(tmp_path, packing, FILES)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * fraction)])
    seen = []
    with pytest.raises(DataError, match=rf"source\.{packing} is truncated") as error:
        seen.extend(name for name, _ in archives.files(source))
    assert f"the last member read whole was {seen[-1] if seen else 'none'}" in str(error.value)


def test_a_tar_cut_exactly_between_two_members_is_truncated_too(tmp_path):
    source = pack(tmp_path, "tar", FILES)
    with tarfile.open(source) as archive:
        third = archive.getmembers()[2].offset
    source.write_bytes(source.read_bytes()[:third])
    with pytest.raises(DataError, match=r"truncated .* was faces/2\.bin"):
        list(archives.files(source))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "faces/../../evil"])
@pytest.mark.parametrize("packing", ["tar", "zip"])
def test_members_that_lead_out_of_the_archive_are_refused(tmp_path, packing, name):
    with pytest.raises(DataError, match="leads out of the archive"):
        list(archives.files(pack(tmp_path, packing, {name: b"x"})))


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("faces/a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"contains the link faces/a\.png"):
        list(archives.files(tmp_path / "a.tar"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.png").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="a link that leads out"):
        list(archives.files(tmp_path / "tree"))


def test_a_file_that_is_no_archive_is_refused_in_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt is truncated or damaged") as error:
        list(archives.files(tmp_path / "notes.txt"))
    assert "\n" not in str(error.value)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.tar does not exist"):
        list(archives.files(tmp_path / "nowhere.tar"))


PGM = b"P2\n2 1\n120\n60 120\n"
CMU = {
    "faces/an2i/an2i_left_angry_open.pgm": PGM,
    "faces/an2i/an2i_left_angry_open_2.pgm": PGM,
    "faces/an2i/an2i_left_angry_open_4.bad": PGM,
    "faces/kk49/kk49_up_sad_sunglasses.pgm": PGM,
    "faces/kk49/kk49_up_sad_open.bad": PGM,
    "faces/README": b"x",
}


def test_cmu_names_are_parsed_and_what_is_left_out_is_counted(tmp_path):
    source = pack(tmp_path, "tar.xz", CMU)
    faces, skipped = split(cmu_faces.read(source))
    assert faces == [Face("an2i_left_angry_open.pgm", "an2i", "left", "angry", "", 0, PGM)]
    assert skipped == {"reduced copy": 1, "marked bad by the authors": 2, "sunglasses": 1, "not a face image": 1}
    kept, _ = split(cmu_faces.read(source, sunglasses="keep"))
    assert [(f.identity, f.frame) for f in kept] == [("an2i", 0), ("kk49", 1)]


def test_the_brightest_value_of_a_cmu_file_is_white():
    assert list(Image.open(io.BytesIO(PGM)).tobytes()) == [128, 255]


def test_the_cmu_archive_has_624_faces_of_20_people_and_16_bad_files(tmp_path):
    source = shared("cmu_faces.tar.xz")
    faces, skipped = split(cmu_faces.read(source, sunglasses="keep"))
    assert len(faces) == 624 and len({f.identity for f in faces}) == 20 and skipped == {"marked bad by the authors": 16}
    manifest = write_dataset(cmu_faces.read(source), tmp_path, name="cmu")
    assert (manifest.kept, manifest.excluded["sunglasses"], len(manifest.duplicates)) == (313, 311, 0)


def test_the_rendered_archive_is_complete():
    faces, skipped = split(labelled_tree.read(shared("f2ed_render_dev.tar")))
    cells = {(f.identity, f.pose, f.expression) for f in faces}
    assert len(faces) == len(cells) == 60 * 4 * 54 and skipped == {"not in labels.csv": 2}
    assert len({f.sequence for f in faces}) == 60 * 54


TABLE = b"""file,identity,pose,expression,sequence,frame
x/1.png,007,left,joy,s1,3
./x/2.png,008,,sad,,
x/3.png,008,up,sad,,
x/1.png,007,left,sad,s1,3
"""


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_table_labels_a_tree(tmp_path, packing):
    root = "" if packing == "directory" else "faces/"
    files = {"labels.csv": TABLE, "x/1.png": b"1", "x/2.png": b"2", "x/4.png": b"4"}
    items = list(labelled_tree.read(pack(tmp_path, packing, {root + k: v for k, v in files.items()})))
    assert items.pop(0) == Skipped("x/1.png", f"{root}labels.csv lists it twice", broken=True)
    assert items[:2] == [
        Face("x/1.png", "007", "left", "joy", "s1", 3, b"1"),
        Face("x/2.png", "008", "", "sad", "", 0, b"2"),
    ]
    assert items[2] == Skipped("x/4.png", f"not in {root}labels.csv")
    assert items[3] == Skipped("x/3.png", f"{root}labels.csv lists it, but it is not there", broken=True)


def test_a_parquet_table_does_as_well(tmp_path):
    source = pack(tmp_path, "directory", {"1.png": b"1"})
    table = pa.table({"file": ["1.png"], "identity": [7], "pose": ["left"], "expression": ["joy"], "frame": [3]})
    pq.write_table(table, source / "labels.parquet")
    assert list(labelled_tree.read(source)) == [Face("1.png", "7", "left", "joy", "", 3, b"1")]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"file,identity,pose\n1.png,a,left\n", "has no column expression, only file, identity, pose"),
        (b"file,identity,pose,expression\n1.png,a\n", "cannot be read"),
        (b"file,identity,pose,expression,frame\n1.png,a,left,joy,1.5\n", r"gives 1\.png the frame '1\.5'"),
    ],
)
def test_a_table_that_cannot_serve_is_explained(tmp_path, table, sentence):
    with pytest.raises(DataError, match=sentence):
        list(labelled_tree.read(pack(tmp_path, "directory", {"labels.csv": table, "1.png": b"1"})))


def test_folders_label_a_tree_without_a_table(tmp_path):
    files = {"set/ann/left/joy/img_012.JPG": b"1", "set/ann/left/joy/notes.txt": b"x", "left/joy/1.png": b"x"}
    faces, skipped = split(labelled_tree.read(pack(tmp_path, "tar", files)))
    assert faces == [Face("set/ann/left/joy/img_012.JPG", "ann", "left", "joy", "", 12, b"1")]
    assert skipped == {"not an image": 1, "not in folders identity/pose/expression": 1}


def test_procedural_faces_are_a_complete_design_and_reproducible():
    def made():
        return list(procedural.read(identities=2, expressions=("joy", "sadness"), frames=2, size=16, seed=3))

    faces = made()
    assert len({f.key for f in faces}) == len({f.image_bytes for f in faces}) == len(faces) == 2 * 2 * 2 * 4
    assert {(f.identity, f.pose, f.expression) for f in faces} == {
        (i, p, e)
        for i in ("p000", "p001")
        for p in ("bird", "front", "half_left", "half_right")
        for e in ("joy", "sadness")
    }
    assert faces == made()


def test_formats_are_the_three():
    assert set(FORMATS) == {"cmu-faces", "labelled-tree", "procedural"}
