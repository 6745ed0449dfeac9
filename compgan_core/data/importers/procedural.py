"""Faces drawn by a program (`compgan_core.data.faces`), complete in identity x pose x expression."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from PIL import Image

from compgan_core.data.face import Face
from compgan_core.data.faces import POSES, draw
from compgan_core.data.looks import EXPRESSIONS


def read(
    *,
    identities: int = 24,
    expressions: Sequence[str] = tuple(EXPRESSIONS),
    frames: int = 1,
    size: int = 48,
    seed: int = 0,
) -> Iterator[Face]:
    """identities x poses x expressions x frames faces as PNG, size x size."""
    for number in range(identities):
        identity = f"p{number:03d}"
        for expression in expressions:
            for frame in range(frames):
                for pose in POSES:
                    buffer = io.BytesIO()
                    Image.fromarray(draw(number, pose, expression, frame, size, seed)).save(buffer, "png")
                    key = f"{identity}/{pose}/{expression}_{frame}.png"
                    yield Face(key, identity, pose, expression, f"{identity}_{expression}", frame, buffer.getvalue())
