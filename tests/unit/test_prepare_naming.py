import inspect
import re

import pytest

from compgan_core.errors import ConfigurationError, DataError
from orchestrator.cli import data_prepare
from orchestrator.prepare.naming import DEFAULT_PATTERN, Labels, read_naming


@pytest.mark.parametrize(
    ("pattern", "name", "labels"),
    [
        (DEFAULT_PATTERN, "set/ann/left/joy/003.mp4", ("ann", "left", "joy", "ann_joy_003")),
        ("{expression}/{identity}", "neutral/001.jpg", ("001", "", "neutral")),
        ("{expression}/{identity}", "neutral/001.mov", ("001", "", "neutral", "001_neutral")),
        ("{identity}-{pose}.v2/*", "a.b-left.v2/x.y.png", ("a.b", "left")),
        ("{identity}/{sequence}/{identity}_*_{frame}", "S5/01/S5_01_0011.png", ("S5", "", "", "S5_01", 11)),
        ("{partition}/{expression}/*", "test/joy/1.jpg", ("", "", "joy", "", 0, "test")),
        ("{identity}.mp4", "x/ann.mp4", ("ann", "", "", "ann")),
        ("{identity}(1)", "ann(1).png", ("ann",)),
    ],
)
def test_a_pattern_reads_names(pattern, name, labels):
    assert read_naming(pattern).labels(name) == Labels(**dict(zip(Labels.model_fields, labels, strict=False)))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{identity}.mp4", "ann.avi"),
        ("{identity}/{sequence}/{identity}_*", "S005/001/S006_001.png"),
        ("{identity}_{frame}", "ann_x.png"),
        (DEFAULT_PATTERN, "ann/left/3.png"),
        ("{identity}(1)", "ann1.png"),
    ],
)
def test_a_pattern_refuses_other_names(pattern, name):
    assert read_naming(pattern).labels(name) is None


def test_cameras_share_the_name_of_a_recording_and_people_do_not():
    naming = read_naming(DEFAULT_PATTERN)
    names = [f"{identity}/{pose}/joy/1.mp4" for identity in "ab" for pose in ("left", "right")]
    assert [naming.labels(name).sequence for name in names] == ["a_joy_1", "a_joy_1", "b_joy_1", "b_joy_1"]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("{identity}/{expresion}", r"names \{expresion\}, which is no label: did you mean expression"),
        ("faces/*", r"names no label: put some of \{identity\}, \{pose\}"),
        ("", "names no label"),
    ],
)
def test_a_pattern_that_cannot_be_is_explained(pattern, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        read_naming(pattern)


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8-sig")
    return read_naming(str(tmp_path / "t.csv"))


def test_a_table_labels_files_as_it_says(tmp_path):
    naming = table(
        tmp_path, "file,identity,expression,sequence,frame,shoe size\na/1.png,ann,joy,r1,012,42\n2.mp4,bob\n"
    )
    assert naming.labels("a/1.png") == Labels(identity="ann", expression="joy", sequence="r1", frame=12)
    assert naming.labels("2.mp4") == Labels(identity="bob")
    assert naming.labels("1.png") is None
    assert naming.missing({"2.mp4"}) == ["a/1.png"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,pose\na,left\n", "has no column file"),
        ("file,pose\na,left\na,right\n", "lists a twice in row 3"),
        ("file,frame\na,1.5\n", r"gives a the frame '1\.5'"),
        ("file,frame\na,-1\n", "gives a the frame '-1'"),
        ('file\n"a', "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_is_explained(tmp_path, text, sentence):
    with pytest.raises(DataError, match=sentence) as error:
        table(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(DataError, match=re.escape("nowhere.csv cannot be read")):
        read_naming("nowhere.csv")


def test_the_command_has_the_defaults_of_the_library():
    pytest.importorskip("cv2", reason="the extra prepare is not installed")
    from orchestrator.prepare.prepare import EVERY_FRAMES

    defaults = {name: p.default for name, p in inspect.signature(data_prepare.prepare).parameters.items()}
    assert (defaults["labels"], defaults["every"]) == (DEFAULT_PATTERN, EVERY_FRAMES)
