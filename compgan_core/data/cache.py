"""The tensor cache: faces decoded and resized once, and read at random through a memory map.

Uncompressed Arrow files, and `cache.json`, last. Synthesized faces are kept the same way.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from compgan_core.data.face import Face
from compgan_core.data.files import DataFile, describe_file, write_last
from compgan_core.data.labels import ATTRIBUTES, COLUMNS, Labels, Rows
from compgan_core.data.shards import PICTURES, labels_of
from compgan_core.errors import DataError

Box = Literal["center", "stretch"]
PART_BYTES = 256 << 20


def decode_part(
    faces: Iterable[Face],
    count: int,
    size: int,
    path: Path,
    *,
    box: Box = "center",
    attributes: bool = False,
    each: Callable = map,
) -> DataFile:
    """Write `count` faces as size x size RGB, as one part of a cache. `finish_cache` makes parts a cache.

    box: "center" crops to the middle square first, which keeps proportions; "stretch" squeezes the whole picture.
    attributes: keep the names of what else is true of each face, for `Faces.attributes`.
    each: as `map`, which may use several threads.
    """
    labels: list[tuple] = []
    true: list[tuple[str, ...]] = []

    def encoded() -> Iterator[bytes]:
        for face in faces:
            labels.append(tuple(getattr(face, name) for name in COLUMNS))
            true.append(face.attributes)
            yield face.image_bytes

    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    for row, image in enumerate(each(lambda image: decode(image, size, box), encoded())):
        pixels[row] = image
    assert len(labels) == count
    columns: dict[str, Any] = dict(zip(COLUMNS, map(list, zip(*labels, strict=True)), strict=True))
    if attributes:
        columns["attributes"] = pa.array(true, pa.list_(pa.string()))
    return _write_part(path, pixels, columns)


def finish_cache(directory: Path, size: int, parts: Sequence[DataFile]) -> None:
    """Write the file that makes the parts a cache: cache.json, last."""
    if not parts:
        raise DataError(f"no face was left to write into {directory}: check the expressions that were asked for")
    write_last(directory / "cache.json", _Facts(size=size, parts=tuple(parts)).model_dump_json(indent=1))


def write_cache(images: NDArray[np.uint8], labels: Labels, directory: Path, *, part_bytes: int = PART_BYTES) -> None:
    """Write pixels (n, size, size, 3) and their labels, by name, into `directory`."""
    size = images.shape[1]
    parts: list[DataFile] = []
    directory.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list] = {a: labels.named(a) for a in ATTRIBUTES}
    columns |= {name: getattr(labels, name).tolist() for name in COLUMNS if name not in ATTRIBUTES}
    step = _rows_per_part(size, part_bytes)
    for start in range(0, len(images), step):
        part = {name: column[start : start + step] for name, column in columns.items()}
        path = directory / f"part-{len(parts):05d}.arrow"
        parts.append(_write_part(path, np.ascontiguousarray(images[start : start + step]), part))
    finish_cache(directory, size, parts)


def decode(image: bytes, size: int, box: Box) -> NDArray[np.uint8]:
    """An encoded picture as RGB (size, size, 3). Gray becomes RGB with three equal channels."""
    with Image.open(io.BytesIO(image), formats=PICTURES) as opened:
        picture = opened.convert("RGB")
    region = None
    if box == "center":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        region = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=region))


class Faces:
    """Faces and their labels, n rows in the order of their keys, however they are stored.

    Pixels stay in the memory map, which all processes of a machine share, until `images` copies the rows it is asked
    for. Pickles as a path and row numbers: a copy maps the files itself.
    """

    labels: Labels
    size: int

    def __init__(self, directory: Path, labels: Labels, size: int, position: Rows):
        self.labels, self.size = labels, size
        self._directory, self._position = directory, position
        self._parts: list[NDArray[np.uint8]] | None = None

    @classmethod
    def open(cls, directory: Path, like: Labels | None = None) -> Faces:
        """Map a finished cache. like: take its vocabularies, instead of what occurs in the cache."""
        facts = _read_facts(directory)
        tables = [_open_part(directory / part.name).select(list(COLUMNS)) for part in facts.parts]
        table = pa.concat_tables(tables)
        order = np.argsort(np.asarray(table["key"].to_pylist(), dtype=np.str_), kind="stable")
        labels = labels_of(table).take(order)
        return cls(directory, labels.recode(like) if like else labels, facts.size, order)

    def __len__(self) -> int:
        return len(self._position)

    def take(self, rows: Rows) -> Faces:
        """A view of these rows, in this order, with the same vocabularies."""
        return Faces(self._directory, self.labels.take(rows), self.size, self._position[rows])

    def attributes(self) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
        """Names of binary attributes, sorted, and which are true of each face: (n, names). Needs `decode_part` to keep
        them. None is true of a face of which nothing is known."""
        parts = _read_facts(self._directory).parts
        column = pa.concat_tables([_open_part(self._directory / part.name).select(["attributes"]) for part in parts])
        lists = column["attributes"].combine_chunks()
        found = lists.flatten().dictionary_encode()
        names, code = np.unique(np.asarray(found.dictionary.to_pylist(), dtype=np.str_), return_inverse=True)
        true = np.zeros((len(lists), len(names)), dtype=np.bool_)
        true[np.repeat(np.arange(len(lists)), lists.value_lengths()), code[found.indices]] = True
        return tuple(names.tolist()), true[self._position]

    def images(self, rows: Rows) -> NDArray[np.uint8]:
        """Pixels of these rows: uint8 (n, size, size, 3), a copy."""
        position = self._position[rows]
        parts = self._open_parts()
        starts = np.cumsum([0, *map(len, parts)])
        part = np.searchsorted(starts, position, side="right") - 1
        pixels = np.empty((len(position), self.size, self.size, 3), dtype=np.uint8)
        for p in np.unique(part):
            here = part == p
            pixels[here] = parts[p][position[here] - starts[p]]
        return pixels

    def _open_parts(self) -> list[NDArray[np.uint8]]:
        if self._parts is None:
            parts = _read_facts(self._directory).parts
            self._parts = [_pixels(_open_part(self._directory / part.name), self.size) for part in parts]
        return self._parts

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_parts": None}


class _Facts(BaseModel, frozen=True, extra="forbid"):
    """What cache.json says."""

    size: int
    parts: tuple[DataFile, ...]


def _read_facts(directory: Path) -> _Facts:
    path = directory / "cache.json"
    try:
        return _Facts.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{directory} holds no finished cache (there is no cache.json): build it again") from None
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({error.errors()[0]['msg']}): build the cache again") from None


def _rows_per_part(size: int, part_bytes: int) -> int:
    return max(1, part_bytes // (size * size * 3))


def _write_part(path: Path, pixels: NDArray[np.uint8], columns: Mapping[str, Any]) -> DataFile:
    """One record batch a file, so that the pixels of a part are one array in the map."""
    image_type = pa.binary(pixels[0].size)
    image = pa.FixedSizeBinaryArray.from_buffers(image_type, len(pixels), [None, pa.py_buffer(pixels)])
    batch = pa.record_batch({"image": image, **columns})
    with pa.OSFile(os.fspath(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return describe_file(path, len(pixels))


def _open_part(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all()


def _pixels(table: pa.Table, size: int) -> NDArray[np.uint8]:
    """The image column of a part, (n, size, size, 3), where it lies in the map."""
    (column,) = table["image"].chunks
    count = len(column) * column.type.byte_width
    return np.frombuffer(column.buffers()[1], dtype=np.uint8, count=count).reshape(-1, size, size, 3)
