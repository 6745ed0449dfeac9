"""Bringing faces in, and reading them at random."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import Figure, figure, in_turn
from compgan_core.data.cache import Faces
from compgan_core.data.face import Face
from compgan_core.data.importers import procedural
from compgan_core.data.tuples import TupleSampler

FACES = int(os.environ.get("BENCHMARK_FACES", "220000"))  # as many as F2ED has, and a few
IDENTITIES, SIZE, TUPLES = 10, 64, 256


def ingest(device: torch.device, repeats: int) -> list[Figure]:
    """A tar of drawn faces, 64 x 64 JPEG, into a directory store. Once: it takes minutes, and `repeats` is ignored.

    Drawing all of them would take longer than the ingest, so each drawn face occurs many times, with a comment in the
    file that makes its bytes, and so its hash, its own.
    """
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.artifacts.node_cache import NodeCache
    from orchestrator.artifacts.store import open_store
    from orchestrator.datasets import import_dataset
    from orchestrator.ingest import faces_recipe, make_faces

    with tempfile.TemporaryDirectory(prefix="compgan-benchmark-") as scratch:
        source = Path(scratch) / "faces.tar"
        _write_tar(source)
        artifacts = Artifacts(open_store(Path(scratch) / "store"), NodeCache(Path(scratch) / "cache"))
        with _Memory() as memory:
            started = time.perf_counter()
            dataset = import_dataset(artifacts, "labelled-tree", str(source), "faces")
            imported = time.perf_counter()
            make_faces(artifacts, dataset.fingerprint, faces_recipe(SIZE, ()))
            cached = time.perf_counter()
        assert dataset.manifest.kept == FACES
    cores = len(os.sched_getaffinity(0))
    return [
        figure(f"ingest of {FACES} JPEG faces", "faces/s/core", [FACES / (imported - started) / cores]),
        figure(f"tensor cache of them, {SIZE} x {SIZE}", "faces/s/core", [FACES / (cached - imported) / cores]),
        figure("peak memory of both, all processes", "GB", [memory.peak_bytes / 1e9]),
    ]


def reads(device: torch.device, repeats: int) -> list[Figure]:
    """The eight images of Algorithm 1's tuples, at random, on one core: the memory map against JPEG files."""
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.artifacts.node_cache import NodeCache
    from orchestrator.artifacts.store import open_store
    from orchestrator.datasets import add_dataset
    from orchestrator.ingest import Streamed, faces_recipe, make_faces

    with tempfile.TemporaryDirectory(prefix="compgan-benchmark-") as scratch:
        folder = Path(scratch) / "faces"
        for face in _jpeg_faces():
            path = folder / face.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(face.image_bytes)
        artifacts = Artifacts(open_store(Path(scratch) / "store"), NodeCache(Path(scratch) / "cache"))
        chunks = Streamed(_jpeg_faces)
        dataset = add_dataset(artifacts, chunks, "faces", source_format="procedural", keep_going=True)
        faces = Faces.open(artifacts.fetch(make_faces(artifacts, dataset.fingerprint, faces_recipe(SIZE, ()))))
        sampler = TupleSampler(faces.labels, np.arange(len(faces)), seed=0)
        rows = sampler.batch(0, TUPLES)[:, :8].ravel()
        paths = [folder / key for key in faces.labels.key[rows]]
        works = {"map": lambda: faces.images(rows), "files": lambda: [_open(path) for path in paths]}
        seconds = in_turn(works, repeats, torch.device("cpu"))
    ratios = [f / m for f, m in zip(seconds["files"], seconds["map"], strict=True)]
    return [
        figure(f"tuple reads, {SIZE} x {SIZE}, memory map", "images/s", [len(rows) / s for s in seconds["map"]]),
        figure(f"tuple reads, {SIZE} x {SIZE}, JPEG files", "images/s", [len(rows) / s for s in seconds["files"]]),
        figure("tuple reads, memory map / JPEG files", "times", ratios),
    ]


def _open(path: Path) -> np.ndarray:
    """As torchvision's ImageFolder reads: open, decode, to RGB."""
    with path.open("rb") as file, Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _jpeg_faces(count: int | None = None) -> Iterator[Face]:
    """Drawn faces as JPEG; more than were drawn are those of other persons, who look the same."""
    drawn = [replace(face, image_bytes=_jpeg(face.image_bytes)) for face in _drawn()]
    for number in range(len(drawn) if count is None else count):
        copy, face = number // len(drawn), drawn[number % len(drawn)]
        comment = b"\xff\xfe\x00\x0a" + f"{number:08d}".encode()  # in the file, so that its bytes are its own
        image = face.image_bytes[:2] + comment + face.image_bytes[2:]
        identity = f"{face.identity}-{copy}"
        key = f"{identity}/{face.pose}/{face.expression}/{number}.jpg"
        yield replace(face, key=key, identity=identity, image_bytes=image)


def _drawn() -> Iterator[Face]:
    return procedural.read(identities=IDENTITIES, size=SIZE)


def _jpeg(png: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def _write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for face in _jpeg_faces(FACES):
            member = tarfile.TarInfo(face.key)
            member.size = len(face.image_bytes)
            archive.addfile(member, io.BytesIO(face.image_bytes))


class _Memory:
    """The most memory that this process and all it has started hold together: proportional set sizes, once a second."""

    def __enter__(self) -> _Memory:
        self.peak_bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil  # comes with Ray

        me = psutil.Process()
        while not self._done.wait(1):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)
