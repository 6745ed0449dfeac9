"""What surrounds the stages: help, planning, a study of which everything is recorded, and the way to the first step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.timing import Figure, figure

if TYPE_CHECKING:
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.study import Study

ORCH = Path(sys.executable).with_name("orch")
SMALL = {
    "faces.max_expressions": "6",
    "pretrain.schedule.steps": "2",
    "classifier.schedule.steps": "2",
    "compgan.schedule.steps": "2",
    "judge.training.schedule.steps": "2",
    "judge.edits": "16",
    "synth.count": "2",
    "synth.pool": "2",
    "finetune.training.schedule.steps": "2",
    "head.schedule.steps": "2",
}
"""A study whose stages take next to nothing, so that what surrounds them remains."""
MANY = {"draws": "340", "tunings": "3"}
"""A study of 10,208 stages."""


def orchestra(device: torch.device, repeats: int) -> list[Figure]:
    """Seconds on the clock, from the command line where a person would wait, with a directory as the store."""
    from compgan_core.data.importers import procedural
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.artifacts.node_cache import NodeCache
    from orchestrator.artifacts.store import open_store
    from orchestrator.datasets import add_dataset, find_dataset
    from orchestrator.ingest import Streamed
    from orchestrator.study import study_of

    with tempfile.TemporaryDirectory() as scratch:
        artifacts = Artifacts(open_store(f"{scratch}/store"), NodeCache(Path(scratch) / "cache"))
        faces = partial(procedural.read, identities=8, size=36)
        add_dataset(artifacts, Streamed(faces), "drawn", source_format="procedural")
        dataset = find_dataset(artifacts.store, "drawn")

        def planned(recorded: int) -> float:
            study = study_of(dataset, "tiny", "ER-FE", 5, 0, MANY)
            assert len(study.stages) > 10_000
            assert len(study.stages) - len(study.plan(artifacts).to_run) >= recorded
            return len(study.stages)

        def train() -> None:
            sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
            options = ["--data", "drawn", "--task", "ER-FE", "--preset", "tiny", "--store", f"{scratch}/store"]
            subprocess.run([ORCH, "train", *options, *sets], check=True, capture_output=True)

        def help_() -> None:
            subprocess.run([ORCH, "--help"], check=True, stdout=subprocess.DEVNULL)

        started = time.time()
        train()
        ended = time.time()
        made = sorted((r for r in artifacts.records() if r.seconds), key=lambda record: record.created)
        stages = sum(record.seconds for record in made)
        figures = {
            "`orch --help`": _timed(help_, repeats),
            "`orch train`, everything recorded": _timed(train, repeats),
            "`orch train`, nothing recorded, beside its stages": [ended - started - stages],
            "planning 10,208 stages, none recorded": _timed(lambda: planned(0), repeats),
        }
        _record_all(artifacts, study_of(dataset, "tiny", "ER-FE", 5, 0, MANY))
        figures["planning 10,208 stages, all recorded"] = _timed(lambda: planned(10_000), repeats)
    return [figure(name, "s", values) for name, values in figures.items()]


def _timed(work: Callable[[], object], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def _record_all(artifacts: Artifacts, study: Study) -> None:
    """A record, of nothing, for each stage that has none."""
    with tempfile.TemporaryDirectory() as empty:
        for stage in study.plan(artifacts).to_run:
            facts = {"recipe": {}, "inputs": {}, "metrics": {}, "seconds": 0.0}
            artifacts.publish(stage.kind, stage.fingerprint, Path(empty), **facts)
