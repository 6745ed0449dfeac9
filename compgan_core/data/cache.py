"""The tensor cache: faces decoded and resized once, and read at random through a memory map.

Uncompressed Arrow files, and `cache.json`, last. Synthesized faces are kept the same way.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from compgan_core.data.files import DataFile, describe_file, write_last
from compgan_core.data.labels import ATTRIBUTES, Labels, Rows
from compgan_core.data.shards import LABEL_COLUMNS, labels_by_key, read_images
from compgan_core.errors import DataError

Box = Literal["center", "stretch"]
PART_BYTES = 256 << 20
PART_ROWS = 16_384  # bounds the encoded pictures that are held while a part of small faces is made


def build_cache(
    dataset: Path,
    directory: Path,
    *,
    size: int,
    box: Box = "center",
    expressions: Collection[str] = (),
    part_bytes: int = PART_BYTES,
) -> None:
    """Write the faces of a data set as size x size RGB into `directory`.

    box: "center" crops to the middle square first, which keeps proportions; "stretch" squeezes the whole picture.
    expressions: only faces with one of these; () for all faces.
    """
    faces = (face for face in read_images(dataset) if not expressions or face.expression in expressions)
    parts: list[DataFile] = []
    directory.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(faces, _rows_per_part(size, part_bytes))):
            pixels = np.empty((len(chunk), size, size, 3), dtype=np.uint8)
            for row, image in enumerate(pool.map(lambda face: decode(face.image_bytes, size, box), chunk)):
                pixels[row] = image
            columns = {name: [getattr(face, name) for face in chunk] for name in LABEL_COLUMNS}
            parts.append(_write_part(directory / f"part-{len(parts):05d}.arrow", pixels, columns))
    _finish(directory, size, parts)


def write_cache(images: NDArray[np.uint8], labels: Labels, directory: Path, *, part_bytes: int = PART_BYTES) -> None:
    """Write pixels (n, size, size, 3) and their labels, by name, into `directory`."""
    size = images.shape[1]
    parts: list[DataFile] = []
    directory.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list] = {a: labels.named(a) for a in ATTRIBUTES}
    columns |= {name: getattr(labels, name).tolist() for name in ("sequence", "frame", "key")}
    step = _rows_per_part(size, part_bytes)
    for start in range(0, len(images), step):
        part = {name: column[start : start + step] for name, column in columns.items()}
        path = directory / f"part-{len(parts):05d}.arrow"
        parts.append(_write_part(path, np.ascontiguousarray(images[start : start + step]), part))
    _finish(directory, size, parts)


def decode(image: bytes, size: int, box: Box) -> NDArray[np.uint8]:
    """An encoded picture as RGB (size, size, 3). Gray becomes RGB with three equal channels."""
    with Image.open(io.BytesIO(image)) as opened:
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
        tables = [_open_part(directory / part["name"]).select(LABEL_COLUMNS) for part in facts["parts"]]
        labels, order = labels_by_key(pa.concat_tables(tables))
        return cls(directory, labels.recode(like) if like else labels, facts["size"], order)

    def __len__(self) -> int:
        return len(self._position)

    def take(self, rows: Rows) -> Faces:
        """A view of these rows, in this order, with the same vocabularies."""
        return Faces(self._directory, self.labels.take(rows), self.size, self._position[rows])

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
            names = [part["name"] for part in _read_facts(self._directory)["parts"]]
            self._parts = [_pixels(_open_part(self._directory / name), self.size) for name in names]
        return self._parts

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_parts": None}


def _finish(directory: Path, size: int, parts: Sequence[DataFile]) -> None:
    if not parts:
        raise DataError(f"no face was left to write into {directory}: check the expressions that were asked for")
    facts = {"size": size, "parts": [part.model_dump() for part in parts]}
    write_last(directory / "cache.json", json.dumps(facts, indent=1))


def _read_facts(directory: Path) -> dict:
    try:
        return json.loads((directory / "cache.json").read_text())
    except FileNotFoundError:
        raise DataError(f"{directory} holds no finished cache (there is no cache.json): build it again") from None


def _rows_per_part(size: int, part_bytes: int) -> int:
    return max(1, min(PART_ROWS, part_bytes // (size * size * 3)))


def _write_part(path: Path, pixels: NDArray[np.uint8], columns: dict[str, list]) -> DataFile:
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
