"""Damaged pictures: each is kept and decodes, or is quarantined with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from mutations import damaged
from PIL import Image

from compgan_core.data.cache import decode
from compgan_core.data.face import Face
from compgan_core.data.shards import assemble, in_chunks, read_shard, write_shard

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def encoded(kind, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3)).repeat(4, axis=0).repeat(4, axis=1)
    sink = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


PICTURES = {
    "png": encoded("png"),
    "palette.png": encoded("png", "P"),
    "jpg": encoded("jpeg"),
    "progressive.jpg": encoded("jpeg", "L", progressive=True),
    "cmyk.jpg": encoded("jpeg", "CMYK"),
    "tif": encoded("tiff"),
    "bmp": encoded("bmp"),
    "webp": encoded("webp"),
    "pgm": encoded("ppm", "L"),
    "ascii.pgm": b"P2\n# CMU\n4 2\n140\n1 2 3 120\n4 5 6 140\n",
}


def with_right_checksums(png):
    """Every chunk of a PNG with the checksum of what it now holds, so that the damage reaches the decoder."""
    whole, place = png[:8], 8
    while place + 8 <= len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        chunk = png[place + 4 : place + 8 + size]
        whole += png[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + size
    return whole


@pytest.mark.parametrize("kind", [*PICTURES, "png with right checksums"])
def test_a_damaged_picture_is_kept_and_decodes_or_is_quarantined(tmp_path, kind):
    whole = PICTURES[kind.split(" ")[0]]
    images = damaged(whole, 250, seed=1)
    if "checksums" in kind:
        images = map(with_right_checksums, images)
    faces = [Face("whole", "", "", "joy", "", 0, whole)]
    faces += [Face(f"{number:03d}", "", "", "joy", "", 0, image) for number, image in enumerate(images)]
    (chunk,) = in_chunks(faces)
    manifest, _ = assemble([write_shard(chunk, tmp_path / "shard")], name="x")
    assert manifest.read == 251 == manifest.kept + len(manifest.quarantined) + len(manifest.duplicates)
    assert len(manifest.quarantined) > 25 and all(q.reason.isprintable() for q in manifest.quarantined)
    kept = list(read_shard(tmp_path / "shard"))
    assert len(kept) == manifest.kept + len(manifest.duplicates)
    for face in kept:
        assert decode(face.image_bytes, 8, "center").shape == (8, 8, 3)
