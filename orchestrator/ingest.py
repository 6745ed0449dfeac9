"""From files to a data set in the store, and from a data set to the tensor cache that training reads.

Both are cut into parts, and each part is an artifact of its own, named by what it is made of: an ingest that was killed
finds the parts it had finished, and data sets that share a part store it once.

artifacts/shard/<fingerprint>/     faces.parquet, and ledger.parquet: a row for each file that was read
artifacts/dataset/<fingerprint>/   manifest.json and labels.parquet; its inputs are the shards
artifacts/pixels/<fingerprint>/    part.arrow: the faces of a shard, decoded and resized
artifacts/faces/<fingerprint>/     cache.json, and by reference the parts: the tensor cache
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compgan_core.data.cache import decode_part, finish_cache
from compgan_core.data.face import Face, Skipped
from compgan_core.data.files import DataFile
from compgan_core.data.labels import check_trainable
from compgan_core.data.shards import (
    LEDGER,
    ROWS_PER_CHUNK,
    Manifest,
    assemble,
    chunk_digest,
    in_chunks,
    labels_of,
    read_label_table,
    read_shard,
    write_head,
    write_shard,
)
from compgan_core.errors import DataError
from orchestrator.artifacts.artifacts import Artifacts, FileEntry, Record
from orchestrator.artifacts.fingerprint import fingerprint
from orchestrator.runtime.spread import here, spread

SHARD, DATASET, PIXELS, FACES = "shard", "dataset", "pixels", "faces"
VERSION = 3

OnFace = Callable[[int], object]


class Chunks(Protocol):
    """Faces in chunks, which may be made where they are used. Picklable; the same each time."""

    def items(self) -> Iterator[bytes]:
        """One a chunk: the chunk itself, or how to make it."""

    def chunk(self, item: bytes) -> pa.Table:
        """The chunk of an item, schema `compgan_core.data.shards.READ`."""


@dataclass(frozen=True)
class Streamed:
    """The chunks of faces that can only be read in turn. faces: called for them from the start."""

    faces: Callable[[], Iterable[Face | Skipped]]
    rows: int = ROWS_PER_CHUNK

    def items(self) -> Iterator[bytes]:
        return map(_packed, in_chunks(self.faces(), rows=self.rows))

    def chunk(self, item: bytes) -> pa.Table:
        return _unpacked(item)


def ingest(
    artifacts: Artifacts,
    chunks: Chunks,
    *,
    name: str,
    source_format: str,
    keep_going: bool = False,
    on_face: OnFace = lambda count: None,
    address: str | None = None,
    here_only: bool = True,
) -> tuple[Record, Manifest]:
    """Decode, validate, and store faces as shards; the record of the data set that they make, and its manifest.

    keep_going: leave out files that are broken and list them, rather than raise a DataError that names the first.
    on_face: called with the number of files read so far.
    address, here_only: see `orchestrator.runtime.spread.spread`.
    """
    started, read = time.monotonic(), 0
    ledgers: list[pa.Table] = []
    shards: dict[str, str] = {}
    for result in spread(chunks.items, _WriteShard(artifacts, chunks), address=address, here_only=here_only):
        ledger = _unpacked(result)
        if not keep_going:
            _stop_at_broken(ledger)
        ledgers.append(ledger)
        shards[f"shard-{len(shards):06d}"] = ledger.schema.metadata[b"fingerprint"].decode()
        read += len(ledger)
        on_face(read)
    manifest, labels = assemble(ledgers, name=name, source_format=source_format)
    twice = [bad for bad in manifest.quarantined if not bad.known]
    if not keep_going and twice:
        raise DataError(_broken(twice[0].key, twice[0].reason))
    recipe = {"digest": manifest.digest}
    with tempfile.TemporaryDirectory(prefix="compgan-ingest-") as scratch:
        write_head(Path(scratch), manifest, labels)
        record = artifacts.publish(
            DATASET,
            fingerprint(DATASET, VERSION, recipe, {}),
            Path(scratch),
            recipe=recipe,
            inputs=shards,
            metrics={"faces": manifest.kept},
            seconds=time.monotonic() - started,
        )
    return record, manifest


def faces_recipe(stored_size: int, expressions: Iterable[str], *, attributes: bool = False) -> dict[str, object]:
    """What decides a tensor cache of a data set. expressions: those to keep; none of them for all.

    attributes: keep the binary attributes of each face, too.
    """
    found: dict[str, object] = {"stored_size": stored_size, "expressions": sorted(expressions)}
    return found | ({"attributes": True} if attributes else {})


def make_faces(
    artifacts: Artifacts,
    dataset: str,
    recipe: Mapping[str, object],
    *,
    on_face: OnFace = lambda count: None,
    address: str | None = None,
    alone: bool = False,
    supervised: bool = False,
) -> Record:
    """The tensor cache of a data set: the one there is, or made now.

    dataset: its fingerprint. recipe: `faces_recipe`. alone: in this process, without Ray, however many there are.
    supervised: they need not be able to train a Comp-GAN. Raises DataError if they must, and cannot.
    """
    made = fingerprint(FACES, VERSION, recipe, {"dataset": dataset})
    if record := artifacts.record(FACES, made):
        return record
    started, size = time.monotonic(), int(str(recipe["stored_size"]))
    head = artifacts.require(DATASET, dataset)
    labels = read_label_table(artifacts.fetch(head))
    if recipe["expressions"]:
        labels = labels.filter(pc.is_in(labels["expression"], pa.array(recipe["expressions"], pa.string())))
    names = labels_of(labels)
    if not supervised:
        check_trainable(names)
    parts: list[DataFile] = []
    files: dict[str, FileEntry] = {}
    wanted, write = [*_parts(head, labels, size, bool(recipe.get("attributes")))], _WritePixels(artifacts)
    for result in here(wanted, write) if alone else spread(partial(iter, wanted), write, address=address):
        part = json.loads(result)
        parts.append(DataFile(**part["part"], name=f"part-{len(parts):06d}.arrow"))
        files[parts[-1].name] = FileEntry(**part["entry"])
        on_face(sum(p.rows for p in parts))
    with tempfile.TemporaryDirectory(prefix="compgan-ingest-") as scratch:
        finish_cache(Path(scratch), size, parts)
        return artifacts.publish(
            FACES,
            made,
            Path(scratch),
            recipe=recipe,
            inputs={"dataset": dataset},
            metrics={
                "images": len(labels),
                **{what: len(getattr(names, what)) for what in ("identities", "poses", "expressions")},
            },
            seconds=time.monotonic() - started,
            references=files,
        )


@dataclass(frozen=True)
class _WriteShard:
    """A chunk to its ledger, which names the shard that it became."""

    artifacts: Artifacts
    chunks: Chunks

    def __call__(self, item: bytes, each: Callable) -> bytes:
        chunk = self.chunks.chunk(item)
        recipe = {"digest": chunk_digest(chunk)}
        name = fingerprint(SHARD, VERSION, recipe, {})
        record = self.artifacts.record(SHARD, name)
        if record:
            ledger = pq.read_table(io.BytesIO(self.artifacts.read(record, "ledger.parquet")), schema=LEDGER)
        else:
            ledger = self._write(chunk, name, recipe, each)
        return _packed(ledger.replace_schema_metadata({"fingerprint": name}))

    def _write(self, chunk: pa.Table, name: str, recipe: Mapping[str, str], each: Callable) -> pa.Table:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="compgan-ingest-") as scratch:
            directory = Path(scratch)
            ledger = write_shard(chunk, directory / "faces.parquet", each)
            pq.write_table(ledger, directory / "ledger.parquet", compression="zstd")
            self.artifacts.publish(
                SHARD,
                name,
                directory,
                recipe=recipe,
                inputs={},
                metrics={"files": len(ledger)},
                seconds=time.monotonic() - started,
            )
        return ledger


def _parts(dataset: Record, labels: pa.Table, size: int, attributes: bool) -> Iterator[bytes]:
    """For each shard that has any: the rows to decode, ascending, as ranges [from, to)."""
    shard, row = (np.asarray(labels[name]) for name in ("shard", "row"))
    for number in np.unique(shard):
        rows = np.sort(row[shard == number])
        ranges = [(int(r[0]), int(r[-1]) + 1) for r in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)]
        part = {"shard": dataset.inputs[f"shard-{number:06d}"], "rows": ranges, "size": size, "attributes": attributes}
        yield json.dumps(part).encode()


@dataclass(frozen=True)
class _WritePixels:
    """The rows of a shard to the file of the tensor cache that they became."""

    artifacts: Artifacts

    def __call__(self, item: bytes, each: Callable) -> bytes:
        wanted = json.loads(item)
        rows = hashlib.sha256(json.dumps(wanted["rows"]).encode()).hexdigest()
        recipe, inputs = {"size": wanted["size"], "rows": rows}, {"shard": wanted["shard"]}
        recipe |= {"attributes": True} if wanted["attributes"] else {}
        name = fingerprint(PIXELS, VERSION, recipe, inputs)
        record = self.artifacts.record(PIXELS, name) or self._write(name, recipe, wanted, each)
        (entry,) = record.files.values()
        part = {"rows": record.metrics["images"], "bytes": entry.size_bytes, "sha256": entry.sha256}
        return json.dumps({"part": part, "entry": entry.model_dump()}).encode()

    def _write(self, name: str, recipe: Mapping[str, object], wanted: Mapping, each: Callable) -> Record:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="compgan-ingest-") as scratch:
            shard, out = Path(scratch) / "faces.parquet", Path(scratch) / "out"
            out.mkdir()
            # Not through the node's cache: the encoded faces are read this once.
            self.artifacts.download(self.artifacts.require(SHARD, wanted["shard"]), "faces.parquet", shard)
            rows = np.concatenate([np.arange(*range_) for range_ in wanted["rows"]])
            faces, attributes = read_shard(shard, rows), wanted["attributes"]
            decode_part(faces, len(rows), wanted["size"], out / "part.arrow", attributes=attributes, each=each)
            return self.artifacts.publish(
                PIXELS,
                name,
                out,
                recipe=recipe,
                inputs={"shard": wanted["shard"]},
                metrics={"images": len(rows)},
                seconds=time.monotonic() - started,
            )


def _stop_at_broken(ledger: pa.Table) -> None:
    broken = ledger.filter(pc.and_not(ledger["broken"], ledger["known"]))
    if len(broken):
        raise DataError(_broken(broken["key"][0].as_py(), broken["reason"][0].as_py()))


def _broken(key: str, reason: str) -> str:
    return f"{key}: {reason}; mend it, or go on without such files with --keep-going"


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
