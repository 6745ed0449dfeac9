"""What the names of files say."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from compgan_core.data.face import Skipped

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".tif", ".tiff", ".webp"})
TABLES = frozenset({".csv", ".txt", ".parquet"})
CLIPS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})


def suffix(name: str) -> str:
    """The end of a file name, in lower case: `.jpg`."""
    return PurePosixPath(name).suffix.lower()


def base(name: str) -> str:
    """A file name without its folders."""
    return name.rpartition("/")[2]


def printable(name: str) -> str:
    """A name on one line and in proper Unicode, whatever bytes it comes from."""
    return re.sub(r"[\0-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], name)


def stray(key: str, wanted: str) -> Skipped:
    """A file whose name does not say what it shows. A picture should, so it is broken."""
    if suffix(key) in PICTURES:
        return Skipped(key, f"not {wanted}", broken=True)
    return Skipped(key, "not an image")
