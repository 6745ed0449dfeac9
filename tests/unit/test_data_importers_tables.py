"""The formats with tables of labels: FER2013, CelebA and trees."""

import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sources import PACKINGS, broken, pack, source_of, split

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import celeba, fer2013, labelled_tree
from compgan_core.data.importers.archives import open_source
from compgan_core.errors import DataError

FER_COUNTS = {
    "angry": 4953,
    "disgust": 547,
    "fear": 5121,
    "happy": 8989,
    "sad": 6077,
    "surprise": 4002,
    "neutral": 6198,
}
FER_SIDES = {"Training": 28_709, "PublicTest": 3_589, "PrivateTest": 3_589}
PIXELS = " ".join(str(value % 256) for value in range(48 * 48))


def fer_rows():
    """(emotion, usage) of 35,887 rows with the published counts."""
    emotions = [number for number, count in enumerate(FER_COUNTS.values()) for _ in range(count)]
    usages = [usage for usage, count in FER_SIDES.items() for _ in range(count)]
    return zip(np.random.default_rng(0).permutation(emotions).tolist(), usages, strict=True)


def test_fer2013_has_its_published_counts(tmp_path):
    text = "emotion,pixels,Usage\n" + "".join(f"{emotion},{PIXELS},{usage}\n" for emotion, usage in fer_rows())
    faces, skipped = split(fer2013.read(source_of(tmp_path / "fer", {"fer2013.csv": text.encode()})))
    assert len(faces) == len({f.key for f in faces}) == 35_887 and skipped == {}
    assert Counter(f.expression for f in faces) == FER_COUNTS
    assert Counter(f.partition for f in faces) == {"train": 28_709, "validation": 3_589, "test": 3_589}
    assert {(f.identity, f.pose) for f in faces} == {("", "")}
    pixels = np.asarray(Image.open(io.BytesIO(faces[-1].image_bytes)))
    assert pixels.shape == (48, 48) and pixels.ravel().tolist() == [value % 256 for value in range(48 * 48)]


def test_the_headers_of_icml_face_data_carry_spaces(tmp_path):
    table = f"emotion, Usage, pixels\n3,PublicTest,{PIXELS}\n".encode()
    (face,) = fer2013.read(source_of(tmp_path / "fer", {"icml_face_data.csv": table}))
    assert (face.key, face.expression, face.partition) == ("row_000000", "happy", "validation")


FER_CSV = f"emotion,pixels,Usage\r\n3,{PIXELS},PrivateTest\r\n\r\n".encode()


def test_fer2013_is_found_in_its_archive_even_in_a_directory(tmp_path):
    (tmp_path / "download").mkdir()
    archive = pack(tmp_path / "download/fer2013.tar.gz", {"fer2013/README": b"x", "fer2013/fer2013.csv": FER_CSV})
    for source in (archive, archive.parent):
        (face,) = fer2013.read(open_source(source))
        assert (face.key, face.expression, face.partition) == ("row_000000", "happy", "test")


def test_the_table_of_the_competition_is_all_train(tmp_path):
    table = f'"emotion","pixels"\n"6","{PIXELS}"\n'.encode()
    (face,) = fer2013.read(source_of(tmp_path / "fer", {"train.csv": table, "test.csv": b"pixels\n0\n"}))
    assert (face.expression, face.partition) == ("neutral", "train")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"7,{PIXELS},Training", "emotion '7' is none of 0 to 6"),
        (f",{PIXELS},Training", "emotion '' is none of 0 to 6"),
        (f"0,{PIXELS} 1,Training", "2305 pixels instead of 2304"),
        ("0,0 0,Training", "2 pixels instead of 2304"),
        ("0,,Training", "a pixel is no whole number from 0 to 255"),
        ("0", "usage '' is none of Training, PublicTest and PrivateTest"),
        (f"0,{PIXELS},Trainings", "usage 'Trainings' is none of Training, PublicTest and PrivateTest"),
        (f"0,{PIXELS[:-3]}256,Training", "a pixel is no whole number from 0 to 255"),
        (f"0,{PIXELS[:-3]}-25,Training", "a pixel is no whole number from 0 to 255"),
        (f'"0,{PIXELS[:-3]}2"5,Training', "a pixel is no whole number from 0 to 255"),
    ],
)
def test_a_broken_row_of_fer2013_costs_one_face(tmp_path, row, reason):
    table = f"emotion,pixels,Usage\n0,{PIXELS},Training\n{row}\n1,{PIXELS},Training\n"
    first, bad, last = fer2013.read(source_of(tmp_path / "fer", {"fer2013.csv": table.encode()}))
    assert bad == Skipped("row_000001", reason, broken=True)
    assert (first.key, first.expression, last.key, last.expression) == ("row_000000", "angry", "row_000002", "disgust")


def test_a_table_that_is_not_fer2013_is_explained(tmp_path):
    with pytest.raises(DataError, match="fer2013.csv in .* has no column pixels, only emotion, x"):
        list(fer2013.read(source_of(tmp_path / "fer", {"fer2013.csv": b"emotion,x\n"})))


def test_folders_of_fer2013_are_labelled_by_name_and_keep_equal_base_names_apart(tmp_path):
    files = {
        "archive/train/angry/Training_1.jpg": b"1",
        "archive/train/neutral/Training_1.jpg": b"2",
        "archive/test/sad/PublicTest_2.jpg": b"3",
        "archive/test/sad/PrivateTest_3.jpg": b"4",
        "archive/PublicTest/Surprised/4.png": b"5",
        "archive/test/bored/5.jpg": b"6",
        "archive/test/readme.txt": b"7",
    }
    items = list(fer2013.read(source_of(tmp_path / "fer.zip", files)))
    faces, skipped = split(items)
    assert [(f.key, f.expression, f.partition) for f in faces] == [
        ("train/angry/Training_1.jpg", "angry", "train"),
        ("train/neutral/Training_1.jpg", "neutral", "train"),
        ("test/sad/PublicTest_2.jpg", "sad", "validation"),
        ("test/sad/PrivateTest_3.jpg", "sad", "test"),
        ("PublicTest/Surprised/4.png", "surprise", "validation"),
    ]
    assert [*broken(items)] == ["test/bored/5.jpg"] and skipped["not an image"] == 1


CELEBA = {
    "Anno/list_attr_celeba.txt": b"202599\nBald  Smiling Young \n000001.jpg -1  1  1\n000002.jpg  1 -1 -1\n",
    "Anno/identity_CelebA.txt": b"000001.jpg 2880\n000002.jpg 2937\n000003.jpg 8692\n",
    "Eval/list_eval_partition.txt": b"000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n000004.jpg 2\n",
}
CELEBA_IMAGES = {f"img_align_celeba/00000{n}.jpg": str(n).encode() for n in (1, 2, 3)}
CELEBA_FACES = [
    Face("000001.jpg", "2880", "", "", "", 0, b"1", "train", ("Smiling", "Young")),
    Face("000002.jpg", "2937", "", "", "", 0, b"2", "validation", ("Bald",)),
    Face("000003.jpg", "8692", "", "", "", 0, b"3", "test"),  # the list claims more rows than it holds
]


@pytest.mark.parametrize("packing", ["unpacked", "zip"])
def test_celeba_joins_its_lists(tmp_path, packing):
    tree = pack(tmp_path / "celeba", CELEBA | {"Img/img_celeba/000001.jpg": b"uncropped"})
    if packing == "zip":
        pack(tree / "Img/img_align_celeba.zip", CELEBA_IMAGES)
    else:
        pack(tree / "Img", CELEBA_IMAGES)
    faces, skipped = split(celeba.read(open_source(tree)))
    assert faces == CELEBA_FACES
    assert skipped == {"not aligned": 1, "not an image": 3, "listed, but there is no picture": 1}


def test_celeba_lists_may_be_csv_with_headers_or_missing(tmp_path):
    lists = {
        "list_attr_celeba.csv": b"image_id,Bald,Smiling,Young\n000001.jpg,-1,1,1\n000002.jpg,1,-1,-1\n",
        "identity_CelebA.txt": b"3\r\nimage_id identity\r\n000001.jpg 2880\r\n000002.jpg 2937\r\n000003.jpg 8692",
        "list_eval_partition.csv": b"image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n",
    }
    assert split(celeba.read(source_of(tmp_path / "all.zip", lists | CELEBA_IMAGES)))[0] == CELEBA_FACES
    some = {"list_eval_partition.csv": lists["list_eval_partition.csv"]}
    faces, _ = split(celeba.read(source_of(tmp_path / "some.zip", some | CELEBA_IMAGES)))
    assert [(f.identity, f.partition, f.attributes) for f in faces] == [
        ("", s, ()) for s in ("train", "validation", "test")
    ]
    with pytest.raises(DataError, match="none of the lists of CelebA"):
        list(celeba.read(source_of(tmp_path / "none.zip", CELEBA_IMAGES)))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "list_attr_celeba",
            b"1\nBald Young\n000001.jpg 1\n",
            "list_attr_celeba does not say 1 or -1 of its 2 attributes",
        ),
        ("list_attr_celeba", b"1\nBald\n000001.jpg 0\n", "list_attr_celeba does not say 1 or -1 of its 1 attributes"),
        ("identity_CelebA", b"000001.jpg x1\n", "its identity is 'x1', not a number"),
        ("list_eval_partition", b"000001.jpg 3\n", "its partition is '3', not 0, 1 or 2"),
    ],
)
def test_a_wrong_line_of_a_celeba_list_breaks_its_picture_only(tmp_path, name, content, reason):
    files = {f"{name}.txt": content, "000001.jpg": b"1", "000002.jpg": b"2", "face.jpg": b"3"}
    items = list(celeba.read(source_of(tmp_path / "celeba", files)))
    assert [f.key for f in split(items)[0]] == ["000002.jpg"]
    assert broken(items) == {"000001.jpg": reason, "face.jpg": "not named like 000001.jpg"}


TABLE = b"""file,identity,pose,expression,sequence,frame,partition
x/1.png,007,left,joy,s1,3,train
./x/2.png,008,,sad,,,
x/3.png,008,up,sad,,,Test
x/1.png,007,left,sad,s1,3,
x\\5.png,009,,,,4.0,val
x/6.png,009,,,,1.5,
x/7.png,009,,,,1,dev
"""


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_table_labels_a_tree(tmp_path, packing):
    root = "" if packing == "directory" else "faces/"
    files = {"labels.csv": TABLE} | {f"x/{n}.png": str(n).encode() for n in (1, 2, 4, 5, 6, 7)}
    source = source_of(tmp_path / f"source.{packing}", {root + k: v for k, v in files.items()})
    assert list(labelled_tree.read(source)) == [
        Skipped("x/1.png", f"{root}labels.csv lists it twice", broken=True),
        Face("x/1.png", "007", "left", "joy", "s1", 3, b"1", "train"),
        Face("x/2.png", "008", "", "sad", "", 0, b"2"),
        Skipped("x/4.png", f"not in {root}labels.csv"),
        Face("x/5.png", "009", "", "", "", 4, b"5", "validation"),
        Skipped("x/6.png", "its frame is '1.5', not a whole number of up to nine digits", broken=True),
        Skipped("x/7.png", "its partition is 'dev', not train, validation or test", broken=True),
        Skipped("x/3.png", f"{root}labels.csv lists it, but it is not there", broken=True),
    ]


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_a_parquet_table_does_as_well(tmp_path):
    table = parquet(
        file=["1.png", "2.png"], identity=[7, 8], pose=["left", None], expression=["joy", ""], frame=[3.0, None]
    )
    source = source_of(tmp_path / "tree", {"labels.parquet": table, "1.png": b"1", "2.png": b"2"})
    assert list(labelled_tree.read(source)) == [
        Face("1.png", "7", "left", "joy", "", 3, b"1"),
        Face("2.png", "8", "", "", "", 0, b"2"),
    ]


def test_columns_and_table_can_have_any_name(tmp_path):
    table = b"path,who,mood,clip\na.jpg,ann,joy,c1\n"
    source = source_of(tmp_path / "tree.zip", {"meta/faces.csv": table, "meta/a.jpg": b"1"})
    names = {
        "table": "faces.csv",
        "file": "path",
        "identity": "who",
        "pose": "",
        "expression": "mood",
        "sequence": "clip",
    }
    assert list(labelled_tree.read(source, **names)) == [Face("a.jpg", "ann", "", "joy", "c1", 0, b"1")]
    with pytest.raises(DataError, match="has no column session, only path, who, mood, clip: give the option sequence"):
        list(labelled_tree.read(source, **(names | {"sequence": "session"})))
    for options in ({"table": "other.csv"}, {"pose": ""}):
        with pytest.raises(DataError, match="tree.zip holds no (other.csv|labels.csv or labels.parquet)"):
            labelled_tree.read(source, **options)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"file,identity,pose\n1.png,a,left\n", "has no column expression, only file, identity, pose"),
        (b"file,identity,pose,expression\n1.png,a\n", "cannot be read"),
        (b"file,file,identity,pose,expression\n1.png,2.png,a,b,c\n", "cannot be read"),
        (b"file,identity,pose,expression\n\xff.png,a,b,c\n", "cannot be read"),
        (b"\xff\xfe,identity,pose,expression\n1.png,a,b,c\n", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_table_that_cannot_serve_is_explained(tmp_path, table, sentence):
    with pytest.raises(DataError, match=sentence):
        list(labelled_tree.read(source_of(tmp_path / "tree", {"labels.csv": table, "1.png": b"1"})))


def test_a_parquet_bomb_is_not_taken_in(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled_tree, "TABLE_BYTES", 1 << 20)
    columns = dict.fromkeys(("file", "identity", "pose", "expression"), ["x" * 1000] * 10_000)
    source = source_of(tmp_path / "tree", {"labels.parquet": parquet(**columns)})
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        list(labelled_tree.read(source))


def test_folders_label_a_tree_without_a_table(tmp_path):
    files = {"set/ann/left/joy/img_012.JPG": b"1", "set/ann/left/joy/notes.txt": b"x", "left/joy/1.png": b"x"}
    items = list(labelled_tree.read(source_of(tmp_path / "tree.tar", files)))
    assert items[0] == Face("set/ann/left/joy/img_012.JPG", "ann", "left", "joy", "", 12, b"1")
    assert split(items)[1] == {"not an image": 1, "not in folders identity/pose/expression": 1}
    assert [*broken(items)] == ["left/joy/1.png"]
