"""FER2013 (Goodfellow et al., Challenges in Representation Learning, 2013): 35,887 gray faces 48 x 48, 7 expressions.

Terms: none were ever stated (Kaggle competition of 2013), and mirrors contradict each other: treat it as research only.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from compgan_core.data.face import Face, Partition, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import printable, stray
from compgan_core.errors import DataError

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""By the number that the tables give. Image folders are sorted by name, so their order is another."""

_FOLDERS = {name: name for name in EXPRESSIONS}
_FOLDERS |= {"disgusted": "disgust", "fearful": "fear", "surprised": "surprise"}
_PARTITIONS: dict[str, Partition] = {
    "training": "train",
    "train": "train",
    "publictest": "validation",
    "validation": "validation",
    "privatetest": "test",
    "test": "test",
}
_SIDE = 48
_COLUMNS = ("emotion", "pixels", "usage")


def read(source: Source) -> Iterator[Face | Skipped]:
    """The faces of fer2013.csv, icml_face_data.csv, train.csv, or of folders `<partition>/<class>/`.

    Training, PublicTest and PrivateTest become train, validation and test; train.csv is all train. There is no identity
    and no pose. A face of a table is written as PGM; its key is the number of its row, from 0.
    """
    for name in ("fer2013.csv", "icml_face_data.csv", "train.csv"):
        if table := source.find(name):
            return _by_table(*table, source.name)
    return _by_folder(source)


def _by_table(name: str, content: bytes, source: str) -> Iterator[Face | Skipped]:
    # Not the csv module: to it, a stray quotation mark makes one row of many.
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace")
    columns = [column.lower() for column in _fields(lines.readline())]
    if missing := {"emotion", "pixels"} - set(columns):
        found = printable(", ".join(columns)[:200])
        raise DataError(f"{name} in {source} has no column {min(missing)}, only {found}: give it as distributed")
    place = [columns.index(column) if column in columns else None for column in _COLUMNS]
    for number, line in enumerate(line for line in lines if line.strip()):
        fields = dict(enumerate(_fields(line)))
        emotion, pixels, usage = ("Training" if p is None else fields.get(p, "") for p in place)
        yield _face(f"row_{number:06d}", emotion, pixels, usage)


def _fields(line: str) -> list[str]:
    return [field.strip(' "\r\n') for field in line.split(",")]


def _face(key: str, emotion: str, pixels: str, usage: str) -> Face | Skipped:
    if emotion not in map(str, range(len(EXPRESSIONS))):
        return Skipped(key, f"emotion {emotion[:20]!r} is none of 0 to 6", broken=True)
    if usage.lower() not in _PARTITIONS:
        return Skipped(key, f"usage {usage[:20]!r} is none of Training, PublicTest and PrivateTest", broken=True)
    if len(pixels) > 8 * _SIDE * _SIDE:
        return Skipped(key, f"more than {_SIDE * _SIDE} pixels", broken=True)
    try:
        values = pc.ascii_split_whitespace(pa.array([pixels])).flatten().cast(pa.uint8())
    except pa.ArrowInvalid:
        return Skipped(key, "a pixel is no whole number from 0 to 255", broken=True)
    if len(values) != _SIDE * _SIDE:
        return Skipped(key, f"{len(values)} pixels instead of {_SIDE * _SIDE}", broken=True)
    # Not PNG: its bytes, and with them the identity of the data set, depend on the version of zlib.
    image = b"P5 %d %d 255\n" % (_SIDE, _SIDE) + values.to_numpy().tobytes()
    return Face(key, "", "", EXPRESSIONS[int(emotion)], "", 0, image, _PARTITIONS[usage.lower()])


def _by_folder(source: Source) -> Iterator[Face | Skipped]:
    for name, image in source.files():
        folders = PurePosixPath(name).parts[-3:]
        key = "/".join(folders)  # two base names occur in two classes
        expression = _FOLDERS.get(folders[-2].lower()) if len(folders) > 1 else None
        # A mirror has both test sets in one folder, and says which is which in the names of the files.
        usage = re.match(r"(training|publictest|privatetest)_", folders[-1].lower())
        side = usage[1] if usage else folders[0].lower()
        if expression is None or side not in _PARTITIONS:
            yield stray(key, f"in a folder <partition>/<class> (classes: {', '.join(EXPRESSIONS)})")
        else:
            yield Face(key, "", "", expression, "", 0, image, _PARTITIONS[side])
