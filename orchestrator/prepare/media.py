"""Pictures out of files: photographs, and the key frames of clips."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from tempfile import NamedTemporaryFile

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compgan_core.data.shards import PICTURES

Picture = NDArray[np.uint8]
"""(height, width, 3), RGB, upright."""

# The containers of clips. What ffmpeg else recognises includes playlists, which name other files to open.
_CONTAINERS = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (0, b"RIFF"),
    (0, b"\x1aE\xdf\xa3"),
)
MAX_PIXELS = 1 << 27


class Unusable(Exception):
    """Why something gives no face, to follow its name."""


def read_photograph(content: bytes) -> Picture:
    """A photograph, turned as its camera says. Raises Unusable."""
    if not content:
        raise Unusable("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=PICTURES) as opened:
            _check_pixels(opened.width, opened.height)
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except UnidentifiedImageError:
        raise Unusable("the file is not an image") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        problem = str(error).partition("\n")[0]
        raise Unusable(f"the file is damaged ({problem})") from None


def key_frames(content: bytes, every_frames: int) -> Iterator[tuple[int, Picture]]:
    """(number, picture) of every such frame of a clip, beginning with half as many.

    The paper does not say which frames are key. These depend on nothing but their number, so that cameras that ran
    together give the same moments, and do not begin or end with the ends of an expression. Raises Unusable, at the
    end too.
    """
    if not any(content[start:].startswith(mark) for start, mark in _CONTAINERS):
        raise Unusable("the file is not a clip")
    with NamedTemporaryFile(prefix="compgan-clip-") as file:  # OpenCV 4.14 crashes on damaged clips in memory
        file.write(content)
        file.flush()
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"  # whatever a clip says, no network
        yield from _key_frames(cv2.VideoCapture(file.name, cv2.CAP_FFMPEG), every_frames)


def _key_frames(capture: cv2.VideoCapture, every_frames: int) -> Iterator[tuple[int, Picture]]:
    _check_pixels(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    declared, number = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
    while capture.grab():
        if number % every_frames == every_frames // 2:
            found, frame = capture.retrieve()
            if not found:
                raise Unusable(f"frame {number} of the clip cannot be decoded")
            yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        number += 1
    if number <= every_frames // 2:
        raise Unusable(f"the clip has only {number} frames that can be decoded")
    if declared - number > every_frames:
        raise Unusable(f"the clip ends after {number} of {declared} frames")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unusable(f"it has {width} x {height} pixels, more than {MAX_PIXELS}")
