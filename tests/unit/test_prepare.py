import csv
import io
import shutil
from collections import Counter
from multiprocessing import active_children

import numpy as np
import pytest
from PIL import Image, ImageOps
from sources import pack, shared, split

from compgan_core.data.align import Landmarks
from compgan_core.data.importers import labelled_tree
from compgan_core.data.importers.archives import open_source
from compgan_core.errors import ConfigurationError, DataError

cv2 = pytest.importorskip("cv2", reason="the extra prepare is not installed")

from orchestrator.prepare.detect import NETWORKS, DetectedFace, Mtcnn, packaged_networks  # noqa: E402
from orchestrator.prepare.media import Unusable, key_frames, read_photograph  # noqa: E402
from orchestrator.prepare.prepare import prepare  # noqa: E402
from orchestrator.prepare.worker import aligned_face  # noqa: E402


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def clip(path, frames, codec):
    """The bytes of a clip of RGB frames, 25 a second."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path.read_bytes()


def numbered(count):
    """Frames of eight bars, black or white, that are the bits of their numbers."""
    bits = np.unpackbits(np.arange(count, dtype=np.uint8)[:, None], axis=1)
    return [np.broadcast_to(row.repeat(16)[:, None] * np.uint8(255), (64, 128, 3)) for row in bits]


def number_of(picture):
    return int(np.packbits(picture.reshape(64, 8, 16, 3).mean(axis=(0, 2, 3)) > 127)[0])


# Photographs and clips


def test_a_photograph_is_turned_as_its_camera_says():
    upright = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright, with the sensor on its side
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    np.testing.assert_array_equal(read_photograph(turned), np.asarray(upright))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"nonsense", "the file is not an image"),
        (encoded(Image.new("RGB", (64, 64)))[:-200], "the file is damaged"),
        (encoded(Image.new("1", (1 << 14, 1 << 14)), "PNG"), r"16384 x 16384 pixels, more than|exceeds limit"),
    ],
)
def test_a_photograph_that_cannot_be_read_says_why(content, reason):
    with pytest.raises(Unusable, match=reason):
        read_photograph(content)


@pytest.mark.parametrize(("codec", "ending"), [("mp4v", "mp4"), ("MJPG", "avi"), ("VP80", "webm")])
def test_key_frames_are_the_frames_of_their_numbers(tmp_path, codec, ending):
    found = dict(key_frames(clip(tmp_path / f"c.{ending}", numbered(40), codec), 12))
    assert {number: number_of(picture) for number, picture in found.items()} == {6: 6, 18: 18, 30: 30}


def test_a_clip_of_five_seconds_has_ten_key_frames(tmp_path):
    assert len(list(key_frames(clip(tmp_path / "c.avi", numbered(125), "MJPG"), 12))) == 10


def test_a_clip_that_was_cut_off_says_so_after_what_is_there(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), np.uint8)
    content, seen = clip(tmp_path / "c.avi", [*noise], "MJPG"), []
    with pytest.raises(Unusable, match="the clip ends after 2[0-2] of 40 frames"):
        seen.extend(number for number, _ in key_frames(content[: len(content) // 2], 12))
    assert seen == [6, 18]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a clip"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not a clip"),
        (b"\0\0\0\x1cftypisom" + bytes(99), "only 0 frames"),
    ],
)
def test_a_clip_that_cannot_be_read_says_why(content, reason):
    with pytest.raises(Unusable, match=reason):
        list(key_frames(content, 12))


# Faces


def face_at(x, y, apart):
    points = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.3, 1 / 0.9], [0.3, 1 / 0.9]]) * apart + [x, y]
    return DetectedFace(3 * apart, Landmarks.from_five(points))


def dotted(size, face, radius):
    """A black picture with a white dot on each eye."""
    picture = np.zeros((size, size, 3), np.uint8)
    for x, y in (face.landmarks.left_eye, face.landmarks.right_eye):
        cv2.circle(picture, (round(x), round(y)), radius, (255, 255, 255), cv2.FILLED)
    return picture


@pytest.mark.parametrize("apart", [40, 78, 300, 902])
def test_eyes_land_where_they_should_however_large_the_picture(apart):
    face = face_at(2 * apart, 3 * apart // 2, apart)
    crop = aligned_face(dotted(4 * apart, face, apart // 8), lambda picture: [face])
    assert crop.shape == (256, 256, 3)
    rows, columns = np.nonzero(crop[..., 0] > 127)
    right = columns > 127
    for side, x in ((~right, 127.5 - 38.4), (right, 127.5 + 38.4)):
        assert abs(columns[side].mean() - x) < 0.6 and abs(rows[side].mean() - (256 / 3 - 0.5)) < 0.6


def test_a_large_picture_is_averaged_and_not_sampled():
    noise = np.random.default_rng(0).integers(0, 2, (1600, 1600, 1), np.uint8).repeat(3, axis=2) * 255
    assert aligned_face(noise, lambda picture: [face_at(800, 700, 400)]).std() < 40  # of 127


def test_of_several_faces_the_largest_is_taken():
    small, large = face_at(50, 50, 20), face_at(200, 150, 40)
    crop = aligned_face(dotted(300, large, 5), lambda picture: [small, large, small])
    assert crop[85, 127 - 38, 0] == 255


@pytest.mark.parametrize(
    ("faces", "reason"), [([], "no face was found"), ([face_at(10, 50, 40)], "cut off by the edge of the picture")]
)
def test_a_picture_without_a_whole_face_says_so(faces, reason):
    with pytest.raises(Unusable, match=reason):
        aligned_face(np.zeros((100, 100, 3), np.uint8), lambda picture: faces)


@pytest.mark.parametrize("shape", [(1, 1), (11, 500), (12, 12), (13, 900), (300, 200)])
def test_noise_of_any_shape_has_no_face(shape):
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert Mtcnn(packaged_networks())(noise) == []


# The road, on photographs of the London set and clips made of them


def moving(photograph, count):
    """Frames in which a person moves, nears and tilts the head."""
    height, width = photograph.shape[:2]
    for number in range(count):
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), number / 4, 0.8 + number / 100)
        matrix[:, 2] += number / 2
        yield cv2.warpAffine(photograph, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def photographs():
    names = [f"neutral/00{number}.jpg" for number in range(1, 5)]
    return [
        Image.open(io.BytesIO(content)).convert("RGB")
        for name, content in shared("london_faces.tar").select(names.__contains__)
    ]


@pytest.fixture(scope="module")
def files(photographs, tmp_path_factory):
    """A tree as it may come."""
    one, two, three, four = photographs
    exif = Image.Exif()
    exif[0x0112] = 6
    pair = Image.new("RGB", (800, 540), one.getpixel((5, 5)))
    pair.paste(two, (0, 0))
    pair.paste(three.resize((250, 250)), (540, 200))
    scratch = tmp_path_factory.mktemp("clips")
    front = clip(scratch / "c.mp4", [*moving(np.asarray(four), 30)], "mp4v")
    left = clip(scratch / "c.avi", [*moving(np.asarray(ImageOps.mirror(four)), 34)], "MJPG")
    return {
        "set/ann/front/joy/1.jpg": encoded(one, quality=95),
        "set/ann/front/joy/1.png": encoded(one.resize((270, 270)), "PNG"),
        "set/ann/front/joy/2.jpg": encoded(one.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95),
        "set/bob/front/joy/pair.jpg": encoded(pair),
        "set/bob/front/joy/blank.jpg": encoded(Image.new("RGB", (99, 99))),
        "set/bob/front/joy/empty.jpg": b"",
        "set/dan/front/rage/a.mp4": front,
        "set/dan/left/rage/a.avi": left,
        "set/dan/left/rage/cut.avi": left[: len(left) // 3],
        "set/stray.jpg": encoded(one),
        "set/README": b"hello",
    }


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    source = open_source(pack(directory / "faces.tar", files))
    return prepare(source, directory / "out", every_frames=10, workers=2), directory / "out"


def read_rows(output):
    with (output / "labels.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_the_counts_add_up_and_every_picture_without_a_face_is_listed(prepared):
    summary, output = prepared
    faces = [path for path in output.rglob("*.jpg")]
    assert summary.read == summary.kept + len(summary.quarantined) == 15
    assert summary.kept == len(faces) == len(read_rows(output)) == 11
    assert {(bad.source, bad.frame, bad.reason.split(" ")[0]) for bad in summary.quarantined} == {
        ("set/bob/front/joy/blank.jpg", None, "no"),
        ("set/bob/front/joy/empty.jpg", None, "the"),
        ("set/dan/left/rage/cut.avi", None, "the"),
        ("set/stray.jpg", None, "its"),
    }
    assert summary.not_read == {"neither a photograph nor a clip": 1}
    assert sorted(path.name for path in output.iterdir()) == ["faces", "labels.csv", "prepared.json"]


def test_cameras_that_ran_together_share_recording_and_frame_numbers(prepared):
    rows = read_rows(prepared[1]).values()
    moments = {
        pose: {(r["sequence"], r["frame"]) for r in rows if r["source"].endswith(f"{pose}/rage/a.{e}")}
        for pose, e in (("front", "mp4"), ("left", "avi"))
    }
    assert moments["front"] == moments["left"] == {("dan_rage_a", "5"), ("dan_rage_a", "15"), ("dan_rage_a", "25")}


def test_what_was_prepared_is_a_labelled_tree(prepared):
    summary, output = prepared
    faces, skipped = split(labelled_tree.read(open_source(output)))
    assert len(faces) == summary.kept and skipped == {"not in labels.csv": 1}
    assert Counter((f.identity, f.pose, f.expression) for f in faces) == {
        ("ann", "front", "joy"): 3,
        ("bob", "front", "joy"): 1,
        ("dan", "front", "rage"): 3,
        ("dan", "left", "rage"): 4,
    }
    assert {Image.open(io.BytesIO(face.image_bytes)).size for face in faces} == {(256, 256)}


def crop(output, name):
    return np.asarray(Image.open(output / "faces/set" / name)).astype(float)


def difference(a, b):
    """Mean over the inner face, of 255."""
    return np.abs(a - b)[60:200, 70:186].mean()


def test_the_same_face_gives_the_same_crop_turned_halved_or_moved(prepared, files, photographs):
    output = prepared[1]
    whole = crop(output, "ann/front/joy/1.jpg")
    assert difference(whole, crop(output, "ann/front/joy/2.jpg")) < 3
    assert difference(whole, crop(output, "ann/front/joy/1.png.jpg")) < 8
    first, *others = (crop(output, f"dan/front/rage/a.mp4/{number:06d}.jpg") for number in (5, 15, 25))
    assert max(difference(first, other) for other in others) < 8
    assert difference(first, whole) > 20  # another person


def test_a_large_photograph_gives_the_same_crop(photographs):
    detector = Mtcnn(packaged_networks())
    small, large = (
        aligned_face(np.asarray(p), detector) for p in (photographs[0], photographs[0].resize((2700, 2700)))
    )
    assert difference(small.astype(float), large) < 4


def test_the_larger_person_of_a_pair_is_the_one(prepared, photographs):
    alone = aligned_face(np.asarray(photographs[1]), Mtcnn(packaged_networks()))
    assert difference(crop(prepared[1], "bob/front/joy/pair.jpg"), alone.astype(float)) < 5


class Stop(Exception):
    pass


def test_what_was_stopped_goes_on_where_it_was(prepared, tmp_path):
    source = open_source(prepared[1].with_name("faces.tar"))

    def stop(count):
        if count == 3:
            raise Stop

    output = tmp_path / "out"
    with pytest.raises(Stop):
        prepare(source, output, every_frames=10, on_file=stop)
    assert not output.exists()
    journal = tmp_path / "out.partial/journal.jsonl"
    assert len(journal.read_text().splitlines()) == 1 + 3
    with journal.open("a") as file:
        file.write('{"name":"set/bo')  # killed while writing
    with pytest.raises(ConfigurationError, match="was begun with every frames 10, not 7"):
        prepare(source, output, every_frames=7)
    counts = []
    assert prepare(source, output, every_frames=10, on_file=counts.append) == prepared[0]
    assert counts == [4, 5, 6, 7, 8, 9]
    assert contents(output) == contents(prepared[1])


def test_a_process_that_dies_is_told_of_and_the_rest_is_not_lost(prepared, tmp_path):
    source = open_source(prepared[1].with_name("faces.tar"))
    with pytest.raises(DataError, match=r"a process died over one of set/\S+"):
        prepare(source, tmp_path / "out", every_frames=10, on_file=lambda count: active_children()[0].kill())
    assert len((tmp_path / "out.partial/journal.jsonl").read_text().splitlines()) >= 2
    assert prepare(source, tmp_path / "out", every_frames=10) == prepared[0]


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_finished_directory_is_told_of_and_never_touched(prepared, tmp_path):
    summary, output = prepared
    source = open_source(output.with_name("faces.tar"))
    assert prepare(source, output, every_frames=10) == summary
    with pytest.raises(ConfigurationError, match="was made with every frames 10, not 11: name a new directory"):
        prepare(source, output, every_frames=11)
    with pytest.raises(ConfigurationError, match="is there, and this did not make it"):
        prepare(source, tmp_path)


def test_a_table_chooses_files_and_what_it_misses_is_quarantined(files, tmp_path):
    (tmp_path / "t.csv").write_text("file,identity,frame\nset/ann/front/joy/1.jpg,x,7\ngone.jpg,y,1\n")
    source = open_source(pack(tmp_path / "tree", {k: v for k, v in files.items() if "ann" in k}))
    summary = prepare(source, tmp_path / "out", labels=str(tmp_path / "t.csv"))
    assert (summary.read, summary.kept, summary.not_read) == (2, 1, {"not in the table": 2})
    assert [(bad.source, bad.reason) for bad in summary.quarantined] == [
        ("gone.jpg", "the table lists it, but it is not there")
    ]
    (row,) = read_rows(tmp_path / "out").values()
    assert (row["identity"], row["frame"]) == ("x", "7")


def test_other_networks_can_be_named_and_must_be_networks(tmp_path):
    source = open_source(pack(tmp_path / "tree", {"a.jpg": b""}))
    with pytest.raises(ConfigurationError, match=r"pnet\.onnx cannot be read"):
        prepare(source, tmp_path / "out", networks=tmp_path)
    for name in NETWORKS:
        (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="does not hold pnet"):
        prepare(source, tmp_path / "out", networks=tmp_path)
    for name in NETWORKS:
        shutil.copy(packaged_networks() / name, tmp_path)
    assert prepare(source, tmp_path / "out", labels="{identity}", networks=tmp_path).read == 1


def test_a_source_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="has neither photographs nor clips"):
        prepare(open_source(pack(tmp_path / "tree", {"a.txt": b""})), tmp_path / "out")
