"""Faces drawn by a program (`compgan_core.data.faces`), complete in identity x expression x frame x pose."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from compgan_core.data.face import Face
from compgan_core.data.faces import POSES, check_known, draw
from compgan_core.data.looks import EXPRESSIONS
from compgan_core.errors import ConfigurationError

DEMO_EXPRESSIONS = (
    *("aggression", "angry", "boredom", "calm", "concentration", "confusion", "contempt", "disgust", "ecstasy"),
    *("embarrassed", "fatigue", "fear", "grief", "joy", "love", "neutral", "pain", "panic", "pride", "sadness"),
    *("shock", "surprise", "suspicion", "worry"),
)
"""What the demo was measured with."""


@dataclass(frozen=True)
class Cast:
    """Who is drawn, doing what. Each face has a number, so that many processes can share the drawing.

    Raises ConfigurationError: an expression that is not one of `EXPRESSIONS`, or that is named twice.
    """

    identities: int
    expressions: tuple[str, ...]
    frames: int
    size: int
    seed: int
    format: Literal["png", "jpeg"] = "png"

    def __post_init__(self) -> None:
        for expression in self.expressions:
            check_known("expression", expression, EXPRESSIONS)
            if self.expressions.count(expression) > 1:
                raise ConfigurationError(f"procedural faces were asked for {expression!r} twice: name it once")

    def __len__(self) -> int:
        return self.identities * len(self.expressions) * self.frames * len(POSES)

    def face(self, number: int) -> Face:
        """Face number 0 to len - 1; the poses of a frame follow one another."""
        rest, pose_code = divmod(number, len(POSES))
        rest, frame = divmod(rest, self.frames)
        person, expression_code = divmod(rest, len(self.expressions))
        identity, pose, expression = f"p{person:03d}", tuple(POSES)[pose_code], self.expressions[expression_code]
        image = self._encode(Image.fromarray(draw(person, pose, expression, frame, self.size, self.seed)))
        key = f"{identity}/{pose}/{expression}_{frame}.{self.format}"
        return Face(key, identity, pose, expression, f"{identity}_{expression}", frame, image)

    def _encode(self, image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        if self.format == "png":
            image.save(buffer, "png", compress_level=1)  # the default takes four times as long, and saves a tenth
        else:
            image.save(buffer, "jpeg", quality=92, subsampling=0)
        return buffer.getvalue()


def read(
    *,
    identities: int = 24,
    expressions: Sequence[str] = DEMO_EXPRESSIONS,
    frames: int = 1,
    size: int = 48,
    seed: int = 0,
) -> Iterator[Face]:
    """identities x expressions x frames x poses faces as PNG, size x size; by default those of the demo."""
    cast = Cast(identities, tuple(expressions), frames, size, seed)
    return map(cast.face, range(len(cast)))
