"""What the records of a reproduction say, by task, number of shots, variant and run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from compgan_core import metrics
from compgan_core.quality import READ
from orchestrator.artifacts.artifacts import Artifacts, Record
from orchestrator.datasets import Dataset
from orchestrator.reproduce.reproduction import Key, Reproduction
from orchestrator.reproduce.significance import Hits, Run
from orchestrator.study import Study

READ_AT_ONCE = 16
SHOWN = (
    *("evaluate", "quality", "fidelity", "judge", "pictures", "synthesis", "compgan", "rival"),
    *("supervised", "baseline", "alike"),
)
"""Kinds of stages that a report is made of."""
TABLE_7 = {"novel": "Acc.", "mean_accuracy": "mA.", "precision": "Pre.", "recall": "Rec.", "f1": "F1."}


class Evidence:
    """All records there are; a reproduction that has not ended has fewer."""

    def __init__(self, reproduction: Reproduction, artifacts: Artifacts):
        self.reproduction, self.artifacts = reproduction, artifacts
        studies = reproduction.everything.values()
        stages = {s.fingerprint: s for study in studies for s in study.stages if s.kind in SHOWN}
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            found = pool.map(lambda s: artifacts.record(s.kind, s.fingerprint), stages.values())
        self.records: dict[str, Record] = {record.fingerprint: record for record in found if record}
        """By fingerprint."""

    def named(self, study: Study) -> dict[str, Record]:
        """The records of a study, by the name of the stage."""
        return {s.name: self.records[s.fingerprint] for s in study.stages if s.fingerprint in self.records}

    def runs(self, task: str, shots: int, variant: str) -> dict[Run, Record]:
        """The recognition runs of a row that have a record."""
        return self._runs.get((task, shots), {}).get(variant, {})

    def values(self, task: str, shots: int, variant: str, measure: str) -> dict[Run, float]:
        """A measure of those runs, in percent; of `TABLE_7` on the novel test images."""
        runs = self.runs(task, shots, variant)
        if measure in TABLE_7 and measure != "novel":
            found = {run: self._class_metrics(record)[measure] for run, record in runs.items()}
            return {run: value for run, value in found.items() if math.isfinite(value)}
        return {run: record.metrics[measure] for run, record in runs.items() if measure in record.metrics}

    def hits(self, task: str, shots: int, variant: str, measure: str) -> Hits:
        """Which test images those runs read right. measure: novel, novel_only or pooled."""
        part = {"pooled": ("base", "novel")}.get(measure, (measure,))
        found = {}
        for run, record in self.runs(task, shots, variant).items():
            read = self._readings(record)
            found[run] = np.concatenate([read[f"{p}_read"] == read[f"{p.split('_')[0]}_truth"] for p in part])
        return found

    def edits_read(self, task: str, stage: str, what: str, edits: Sequence[str]) -> Hits:
        """The share of each tuple's `edits` in which the judge read `what` as intended. stage: `quality`, or a rival's.

        A run is a seed; edits of one tuple share their source, so they are one unit.
        """
        found = {}
        for run, record in self.by_seed(task, stage).items():
            read = self._readings(record)
            found[run] = np.mean([read[f"{e}_judge"][:, READ.index(what)] for e in edits], axis=0)
        return found

    def by_seed(self, task: str, stage: str) -> dict[Run, Record]:
        """The records of a stage that all numbers of shots of a task share."""
        found = {
            Run(key.seed, 0, 0): self.named(study).get(stage)
            for key, study in self.reproduction.studies.items()
            if key.task == task
        }
        return {run: record for run, record in found.items() if record}

    @cached_property
    def sharing_generators(self) -> list[list[str]]:
        """The tasks whose generators have been judged; a few-shot task and its zero-shot twin have the same ones."""
        found: dict[str, list[str]] = {}
        for task in self.reproduction.tasks:
            for record in [*self.by_seed(task, "quality").values()][:1]:
                found.setdefault(record.fingerprint, []).append(task)
        return [*found.values()]

    def synthesized(self, task: str, shots: int) -> dict[str, dict[Run, Record]]:
        """Kind of faces -> what the judge read in those that were synthesized, by seed and draw of the shots."""
        return self._labelled("fidelity").get((task, shots), {})

    def supervised(self, dataset: Dataset) -> dict[str, dict[Run, Record]]:
        """Row -> its runs on a data set, whose draws and fine-tunings are one."""
        found: dict[str, dict[Run, Record]] = {}
        for study in self.reproduction.supervised.values():
            if study.dataset == dataset and study.competitors:
                for row, stage in study.rows.items():
                    if record := self.records.get(stage.fingerprint):
                        found.setdefault(row, {})[Run(study.recipe.seed, 0, 0)] = record
        return found

    def supervised_hits(self, dataset: Dataset, row: str) -> Hits:
        """Which test faces the runs of a row read right."""
        found = {}
        for run, record in self.supervised(dataset).get(row, {}).items():
            read = self._readings(record)
            found[run] = read["read"] == read["truth"]
        return found

    def study(self, task: str, shots: int | None = None) -> Study | None:
        """The first study of a task that there is, of a number of shots if it is given."""
        for key, study in self.reproduction.studies.items():
            if key.task == task and shots in (None, key.shots):
                return study
        return None

    @cached_property
    def _runs(self) -> dict[tuple[str, int], dict[str, dict[Run, Record]]]:
        return self._labelled("evaluate")

    def _labelled(self, kind: str) -> dict[tuple[str, int], dict[str, dict[Run, Record]]]:
        """The records of stages called `kind label #draw.tuning`: (task, shots) -> label -> run -> record."""
        found: dict[tuple[str, int], dict[str, dict[Run, Record]]] = {}
        for key, study in self.reproduction.studies.items():
            for name, record in self.named(study).items():
                if name.startswith(f"{kind} "):
                    label, _, run = name.removeprefix(f"{kind} ").partition(" #")
                    found.setdefault((key.task, key.shots), {}).setdefault(label, {})[_run(key, run)] = record
        return found

    def _class_metrics(self, record: Record) -> dict[str, float]:
        with np.load(io.BytesIO(self._bytes(record, "confusion.npz")), allow_pickle=False) as file:
            counts = file["novel"] if file["novel"].any() else file["base"]
        of_classes = metrics.class_metrics(counts)
        return {
            "mean_accuracy": 100 * metrics.mean_accuracy(counts),
            "precision": 100 * of_classes.macro_precision,
            "recall": 100 * of_classes.macro_recall,
            "f1": 100 * of_classes.macro_f1,
        }

    def _readings(self, record: Record) -> Mapping[str, np.ndarray]:
        with np.load(io.BytesIO(self._bytes(record, "readings.npz")), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def _bytes(self, record: Record, name: str) -> bytes:
        return self._files[record.fingerprint, name]

    @cached_property
    def _files(self) -> dict[tuple[str, str], bytes]:
        """All small files that tables read, at once."""
        wanted = [
            (record, name)
            for record in self.records.values()
            for name in ("readings.npz", "confusion.npz")
            if name in record.files
        ]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            read = pool.map(lambda item: self.artifacts.read(*item), wanted)
            return {(record.fingerprint, name): content for (record, name), content in zip(wanted, read, strict=True)}


def _run(key: Key, label: str) -> Run:
    """`2.1` is the second fine-tuning of the third draw."""
    draw, _, tuning = label.partition(".")
    return Run(key.seed, int(draw), int(tuning or 0))
