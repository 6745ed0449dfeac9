"""Procedural faces as a data set, drawn by the tasks that store them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from compgan_core.data.importers.procedural import Cast
from compgan_core.data.labels import choose_expressions
from compgan_core.data.looks import EXPRESSIONS
from compgan_core.data.shards import BYTES_PER_CHUNK, in_chunks
from compgan_core.errors import ConfigurationError
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.datasets import Dataset, add_dataset
from orchestrator.ingest import OnFace

ROWS_PER_CHUNK = 1024  # some seconds of drawing


def draw_dataset(
    artifacts: Artifacts,
    name: str,
    *,
    identities: int,
    expressions: str | None,
    frames: int,
    size: int,
    seed: int,
    format: Literal["png", "jpeg"],  # noqa: A002
    on_face: OnFace = lambda count: None,
    address: str | None = None,
) -> Dataset:
    """Draw faces of every identity, pose and expression, and store them.

    expressions: names between commas, or how many to draw by seed from the 54; None for all.

    Raises ConfigurationError: an unknown expression, more than there are, or a name that cannot be one.
    """
    cast = Cast(identities, _chosen(expressions, seed), frames, size, seed, format)
    return add_dataset(artifacts, Drawn(cast), name, source_format="procedural", on_face=on_face, address=address)


@dataclass(frozen=True)
class Drawn:
    """The faces of a cast as chunks, which are made where they are used."""

    cast: Cast

    def items(self) -> Iterator[bytes]:
        return (str(start).encode() for start in range(0, len(self.cast), self._rows))

    def chunk(self, item: bytes) -> pa.Table:
        numbers = range(len(self.cast))[int(item) : int(item) + self._rows]
        (table,) = in_chunks(map(self.cast.face, numbers))
        return table

    @property
    def _rows(self) -> int:
        return max(1, min(ROWS_PER_CHUNK, BYTES_PER_CHUNK // (3 * self.cast.size**2)))


def _chosen(expressions: str | None, seed: int) -> tuple[str, ...]:
    everything = tuple(EXPRESSIONS)
    if expressions is None:
        return everything
    if not expressions.isdecimal():
        return tuple(expressions.split(","))
    if not 1 <= int(expressions) <= len(everything):
        raise ConfigurationError(f"there are {len(everything)} expressions, not {expressions}: ask for 1 to that many")
    return choose_expressions(everything, int(expressions), seed)
