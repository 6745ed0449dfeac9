"""What a photograph or a clip shows: from its name, or from a table."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import BaseModel, Field, ValidationError

from compgan_core.data.importers.names import CLIPS
from compgan_core.errors import ConfigurationError, DataError, did_you_mean

DEFAULT_PATTERN = "{identity}/{pose}/{expression}/{sequence}"


class Labels(BaseModel, frozen=True, extra="forbid"):
    """Of one file. Empty is unknown."""

    identity: str = ""
    pose: str = ""
    expression: str = ""
    sequence: str = ""
    frame: int = Field(0, ge=0, lt=10**9)
    """The number of a photograph, or of the first frame of a clip."""
    partition: str = ""


class Naming(Protocol):
    """Labels by file name."""

    @property
    def text(self) -> str:
        """Other for another naming."""

    @property
    def leaves_out(self) -> bool:
        """Whether a file of which it says nothing is not wanted, rather than wrongly named."""

    def labels(self, name: str) -> Labels | None:
        """Of the file with this name; None if it says nothing of the file."""

    def missing(self, names: set[str]) -> list[str]:
        """Files that should be there, but are not among these."""


def is_clip(name: str) -> bool:
    """Whether a file is a clip, by the ending of its name."""
    return PurePosixPath(name).suffix.lower() in CLIPS


def read_naming(text: str) -> Naming:
    """A pattern of names, or the path of a CSV file. Raises ConfigurationError or DataError."""
    return Table(Path(text)) if text.lower().endswith(".csv") else Pattern(text)


class Pattern:
    """The end of a name, such as `{identity}/{pose}/{expression}/{sequence}.mp4`.

    A word in braces stands for a label, which has no slash; where one occurs twice, it must be the same. `*` stands for
    anything without a slash. The ending, such as `.mp4`, may be left out.

    A clip is a recording, and so is what has a {sequence} or a {frame} in its pattern. It is called
    `identity_expression_sequence`, because its views from several cameras share the name, and no other should.
    """

    leaves_out = False

    def __init__(self, text: str):
        self.text = text
        words = re.findall(r"\{(.*?)\}", text)
        fields = list(Labels.model_fields)
        for word in words:
            if word not in fields:
                raise ConfigurationError(f"{text!r} names {{{word}}}, which is no label: {did_you_mean(word, fields)}")
        if not words:
            allowed = ", ".join(f"{{{field}}}" for field in fields)
            raise ConfigurationError(f"{text!r} names no label: put some of {allowed} where the names have them")
        self._of_recordings = "sequence" in words or "frame" in words
        parts = re.split(r"(\{.*?\}|\*)", text)
        body = "".join(_expression(part, "".join(parts[:place])) for place, part in enumerate(parts))
        self._match = re.compile(rf"(?:.*/)?{body}(?:\.[^./]+)?", re.ASCII | re.DOTALL).fullmatch

    def labels(self, name: str) -> Labels | None:
        found = self._match(name)
        if found is None:
            return None
        labels = Labels.model_validate(found.groupdict())
        if not (self._of_recordings or is_clip(name)):
            return labels
        parts = labels.identity, labels.expression, labels.sequence
        return labels.model_copy(update={"sequence": "_".join(filter(None, parts))})

    def missing(self, names: set[str]) -> list[str]:
        return []


class Table:
    """A CSV file with the column `file`, and any of identity, pose, expression, sequence, frame and partition."""

    leaves_out = True

    def __init__(self, path: Path):
        try:
            content = path.read_bytes()
            rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig")), restkey="", strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read ({error}): write it as CSV in UTF-8") from None
        self.text = f"{path.name} {hashlib.sha256(content).hexdigest()}"
        self._labels: dict[str, Labels] = {}
        for line, row in enumerate(rows, start=2):
            file = row.get("file")
            if not file or file in self._labels:
                problem = f"lists {file} twice" if file else "has no column file, or nothing in it,"
                raise DataError(f"{path} {problem} in row {line}: give each file one row")
            try:
                self._labels[file] = Labels.model_validate(
                    {k: v for k, v in row.items() if v and k in Labels.model_fields}
                )
            except ValidationError:
                raise DataError(f"{path} gives {file} the frame {row['frame']!r}: write a whole number") from None

    def labels(self, name: str) -> Labels | None:
        return self._labels.get(name)

    def missing(self, names: set[str]) -> list[str]:
        return sorted(self._labels.keys() - names)


def _expression(part: str, before: str) -> str:
    """The regular expression for a part of a pattern."""
    if part == "*":
        return "[^/]+?"
    if not part.startswith("{"):
        return re.escape(part)
    if part in before:
        return f"(?P={part[1:-1]})"
    return f"(?P<{part[1:-1]}>{r'[0-9]{1,9}' if part == '{frame}' else '[^/]+?'})"
