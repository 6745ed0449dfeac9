"""The formats whose labels are in the names of the files; tables of labels are in test_data_importers_tables."""

import io
from collections import Counter
from itertools import product

import pytest
from PIL import Image
from sources import PACKINGS, broken, pack, shared, source_of, split

from compgan_core.data.face import Face
from compgan_core.data.importers import FORMATS, ck_plus, cmu_faces, jaffe, kdef, labelled_tree, procedural, rafd, read
from compgan_core.data.importers.archives import open_source
from compgan_core.errors import ConfigurationError

PGM = b"P2\n2 1\n120\n60 120\n"
CMU = {
    "faces/an2i/an2i_left_angry_open.pgm": PGM,
    "faces/an2i/an2i_left_angry_open_2.pgm": PGM,
    "faces/an2i/an2i_left_angry_open_4.bad": PGM,
    "faces/kk49/kk49_up_sad_sunglasses.pgm": PGM,
    "faces/kk49/kk49_up_sad_open.bad": PGM,
    "faces/kk49/kk49_up_bored_open.pgm": PGM,
    "faces/README": b"x",
}


def test_cmu_names_are_parsed_and_what_is_left_out_is_counted(tmp_path):
    source = source_of(tmp_path / "source.tar.xz", CMU)
    faces, skipped = split(cmu_faces.read(source))
    assert faces == [Face("an2i_left_angry_open.pgm", "an2i", "left", "angry", "", 0, PGM)]
    assert skipped == {
        "reduced copy": 2,
        "marked bad by the authors": 1,
        "sunglasses": 1,
        "not an image": 1,
        "not named like an2i_left_angry_open.pgm": 1,
    }
    assert [*broken(cmu_faces.read(source))] == ["kk49_up_sad_open.bad", "kk49_up_bored_open.pgm"]
    kept, _ = split(cmu_faces.read(source, sunglasses="keep"))
    assert [(f.identity, f.frame) for f in kept] == [("an2i", 0), ("kk49", 1)]


def test_the_brightest_value_of_a_cmu_file_is_white():
    assert list(Image.open(io.BytesIO(PGM)).tobytes()) == [128, 255]


def test_the_cmu_archive_has_624_faces_of_20_people_and_16_bad_files():
    source = shared("cmu_faces.tar.xz")
    faces, skipped = split(cmu_faces.read(source, sunglasses="keep"))
    assert len(faces) == 624 and len({f.identity for f in faces}) == 20 and skipped == {"marked bad by the authors": 16}
    assert Counter(face.frame for face in faces) == {0: 313, 1: 311}


def test_the_rendered_archive_is_complete():
    faces, skipped = split(labelled_tree.read(shared("f2ed_render_dev.tar")))
    cells = {(f.identity, f.pose, f.expression) for f in faces}
    assert len(faces) == len(cells) == 60 * 4 * 54 and skipped == {"not in labels.csv": 2}
    assert len({f.sequence for f in faces}) == 60 * 54


JAFFE_PEOPLE = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
JAFFE_FACES = {"AN": 30, "DI": 29, "FE": 32, "HA": 31, "NE": 30, "SA": 31, "SU": 30}


def jaffe_names():
    """Names with the published counts: 213 of ten women, two to five takes of each expression."""
    number = 0
    for expression, count in JAFFE_FACES.items():
        for i in range(count):
            number += 1
            yield f"{JAFFE_PEOPLE[i % 10]}.{expression}{i // 10 + 1}.{number}.tiff"


def test_jaffe_has_213_faces_of_ten_women_and_seven_expressions(tmp_path):
    tiff = io.BytesIO()
    Image.new("L", (256, 256), 90).save(tiff, "tiff")
    files = {f"jaffe/{name}": tiff.getvalue() for name in jaffe_names()} | {"jaffe/README": b"x"}
    faces, skipped = split(jaffe.read(source_of(tmp_path / "jaffe.zip", files)))
    assert len(faces) == len({f.key for f in faces}) == 213 and skipped == {"not an image": 1}
    assert Counter(f.identity for f in faces).keys() == set(JAFFE_PEOPLE)
    assert Counter(f.expression for f in faces) == dict(
        angry=30, disgust=29, fear=32, happy=31, neutral=30, sad=31, surprise=30
    )
    assert {f.pose for f in faces} == {"front"} and Image.open(io.BytesIO(faces[0].image_bytes)).size == (256, 256)


def test_jaffe_takes_are_frames_and_other_pictures_are_broken(tmp_path):
    source = source_of(tmp_path / "jaffe", {"KM.SA5.13.tiff": b"1", "ka.an1.39.TIF": b"2", "KA.XX1.40.tiff": b"3"})
    faces, _ = split(jaffe.read(source))
    assert faces == [
        Face("KM.SA5.13.tiff", "KM", "front", "sad", "", 5, b"1"),
        Face("ka.an1.39.TIF", "KA", "front", "angry", "", 1, b"2"),
    ]
    assert broken(jaffe.read(source)) == {"KA.XX1.40.tiff": "not named like KA.AN1.39.tiff"}


def kdef_files():
    """The names as distributed: complete, but for the two that are misnamed."""
    for session, person, expression, angle in product(
        "AB", [f"{sex}{n:02d}" for sex in "FM" for n in range(1, 36)], kdef.EXPRESSIONS, kdef.POSES
    ):
        name = f"{session}{person}{expression}{angle}"
        name = {"AF31SAHL": "AF31V", "AM31SUHR": "AM31H"}.get(name, name)
        yield f"KDEF_and_AKDEF/KDEF/{session}{person}/{name}.JPG"


def test_kdef_is_complete_with_its_two_misnamed_files(tmp_path):
    files = dict.fromkeys(kdef_files(), b"x") | {"KDEF_and_AKDEF/AKDEF/FAFHL.JPG": b"x", "KDEF_and_AKDEF/a.pdf": b"x"}
    faces, skipped = split(kdef.read(source_of(tmp_path / "kdef.zip", files)))
    cells = {(f.identity, f.pose, f.expression, f.frame) for f in faces}
    assert len(faces) == len({f.key for f in faces}) == len(cells) == 70 * 5 * 7 * 2
    assert skipped == {"averaged face": 1, "not an image": 1}
    found = {f.key: (f.identity, f.pose, f.expression, f.sequence, f.frame) for f in faces}
    assert found["AF31V.JPG"] == ("F31", "half_left", "sad", "AF31SA", 0)
    assert found["AM31H.JPG"] == ("M31", "half_right", "surprised", "AM31SU", 0)
    assert found["BF01ANS.JPG"] == ("F01", "front", "angry", "BF01AN", 1)


def test_rafd_is_complete_and_gaze_is_the_frame(tmp_path):
    people = [f"{n:02d}_Caucasian_male" for n in range(1, 66)] + ["66_Moroccan_male", "73_Caucasian_female"]
    files = {
        f"Rafd{camera}_{person}_{expression}_{gaze}.jpg": b"x"
        for camera, person, expression, gaze in product(rafd.POSES, people, rafd.EXPRESSIONS, rafd.GAZES)
    }
    faces, skipped = split(rafd.read(source_of(tmp_path / "rafd.tar", files | {"Rafd091_28.jpg": b"x"})))
    cells = {(f.identity, f.pose, f.expression, f.frame) for f in faces}
    assert len(faces) == len(cells) == 8040 and sum(skipped.values()) == 1
    key = "Rafd045_66_Moroccan_male_contemptuous_left.jpg"
    assert next(f for f in faces if f.key == key) == Face(
        key,
        "66",
        "half_right",
        "contemptuous",
        "66_contemptuous",
        1,
        b"x",
        attributes=("moroccan", "male", "gaze_left"),
    )


def ck_frames(person, sequence, count):
    name = f"{person}_{sequence}"
    return {f"{person}/{sequence}/{name}_{n:08d}.png": f"{name} {n}".encode() for n in range(1, count + 1)}


CK_IMAGES = ck_frames("S005", "001", 5) | ck_frames("S005", "002", 4) | ck_frames("S010", "001", 3)
CK_LABELS = {
    "S005/001/S005_001_00000005_emotion.txt": b"   3.0000000e+00\n",
    "S010/001/S010_001_00000003_emotion.txt": b"   7.0000000e+00\n",
}


@pytest.mark.parametrize("packing", ["unpacked", "zip"])
def test_ck_plus_gives_the_neutral_first_frame_and_the_peak_of_labelled_sequences(tmp_path, packing):
    ending = "" if packing == "unpacked" else ".zip"
    tmp_path.joinpath("ck").mkdir()
    for folder, files in {"cohn-kanade-images": CK_IMAGES, "Emotion": CK_LABELS, "Landmarks": {"a.txt": b"1"}}.items():
        pack(
            tmp_path / f"ck/{folder}{ending}", {f"{folder}/{name}" if ending else name: c for name, c in files.items()}
        )
    source = open_source(tmp_path / "ck")
    faces, skipped = split(ck_plus.read(source))
    assert [(f.key, f.identity, f.expression, f.sequence, f.frame, f.image_bytes) for f in faces] == [
        ("S005_001_00000001.png", "S005", "neutral", "S005_001", 1, b"S005_001 1"),
        ("S005_001_00000005.png", "S005", "disgust", "S005_001", 5, b"S005_001 5"),
        ("S010_001_00000001.png", "S010", "neutral", "S010_001", 1, b"S010_001 1"),
        ("S010_001_00000003.png", "S010", "surprise", "S010_001", 3, b"S010_001 3"),
    ]
    assert skipped == {"between neutral and peak": 4, "its sequence has no label": 4, "a label": 2, "not an image": 1}
    more, _ = split(ck_plus.read(source, frames=3))
    assert [(f.sequence, f.frame, f.expression) for f in more if f.expression != "neutral"] == [
        ("S005_001", 3, "disgust"),
        ("S005_001", 4, "disgust"),
        ("S005_001", 5, "disgust"),
        ("S010_001", 2, "surprise"),
        ("S010_001", 3, "surprise"),
    ]


@pytest.mark.parametrize("label", [b"", b"8.0e+00", b"nan", b"3.5", b"happy", b"\xff"])
def test_a_ck_plus_label_that_is_no_emotion_breaks_the_frames_of_its_sequence(tmp_path, label):
    files = ck_frames("S005", "001", 5) | {"S005_001_00000005_emotion.txt": label}
    assert [*broken(ck_plus.read(source_of(tmp_path / "ck", files)))] == [
        "S005_001_00000001.png",
        "S005_001_00000005.png",
    ]


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


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"procedural"}))
@pytest.mark.parametrize("packing", PACKINGS)
def test_no_format_takes_a_file_that_is_not_its_own(tmp_path, name, packing):
    source = source_of(
        tmp_path / f"source.{packing}", {"notes.md": b"x", "list_attr_celeba.txt": b"1\nBald\n000001.jpg 1"}
    )
    faces, _ = split(FORMATS[name](source))
    assert faces == [] and broken(FORMATS[name](source)) == {}


def test_options_are_converted_and_checked(tmp_path):
    source = source_of(tmp_path / "source", CMU)
    assert len(split(read("cmu-faces", source, {"sunglasses": "keep"}))[0]) == 2
    options = {"identities": "1", "size": "8", "expressions": "joy,sadness"}
    assert {face.expression for face in read("procedural", None, options)} == {"joy", "sadness"}


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("cmu", {}, "no format 'cmu': did you mean cmu-faces?"),
        ("cmu-faces", {"glasses": "keep"}, "cmu-faces has no option 'glasses': did you mean sunglasses?"),
        ("cmu-faces", {"sunglasses": "maybe"}, "cannot take sunglasses=maybe: input should be 'drop' or 'keep'"),
        ("ck-plus", {"frames": "0"}, "cannot take frames=0: input should be greater than or equal to 1"),
        ("ck-plus", {"frames": "two"}, "cannot take frames=two: input should be a valid integer"),
        ("jaffe", {"frames": "2"}, "jaffe has no option 'frames': it has none"),
        ("procedural", {}, "makes its own faces and reads no source"),
    ],
)
def test_a_wrong_request_is_explained(tmp_path, name, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        read(name, source_of(tmp_path / "source", CMU), options)
    with pytest.raises(ConfigurationError, match="jaffe needs a source"):
        read("jaffe", None, {})
