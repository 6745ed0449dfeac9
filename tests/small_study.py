"""A study that takes seconds, through the command line: what the tests of the whole road run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import patch

from compgan_core.data.importers import procedural
from compgan_core.data.looks import EXPRESSIONS
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.cli.app import main
from orchestrator.datasets import add_dataset
from orchestrator.ingest import Streamed

ORCH = Path(sys.executable).with_name("orch")
COMPGAN_STEPS = 40
LONG = {"compgan.schedule.steps": str(COMPGAN_STEPS)}  # enough to be killed in
SETTINGS = {
    "faces.max_expressions": "5",
    "pretrain.schedule.steps": "2",
    "classifier.schedule.steps": "4",
    "compgan.schedule.steps": "4",
    "compgan.schedule.batch": "2",
    "compgan.schedule.micro_batch": "1",
    "compgan.warmup_tuples": "20",
    "compgan.ramp_tuples": "20",
    "judge.training.schedule.steps": "2",
    "judge.edits": "16",
    "synth.count": "3",
    "synth.pool": "4",
    "finetune.training.schedule.steps": "2",
    "head.schedule.steps": "2",
}


def import_faces(url: str, cache: Path, name: str = "drawn") -> None:
    """5 identities x 4 poses x 6 expressions of drawn faces."""
    faces = partial(procedural.read, identities=5, expressions=list(EXPRESSIONS)[:6], size=36)
    artifacts = Artifacts(open_store(url), NodeCache(cache))
    add_dataset(artifacts, Streamed(faces), name, source_format="procedural")


def options(url: str, task: str = "ER-FE", **settings: str) -> list[str]:
    chosen = SETTINGS | settings
    sets = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    return ["--data", "drawn", "--task", task, "--shots", "1", "--preset", "tiny", "--store", url, *sets]


def orch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`orch` in this process, and so on the Ray that it is connected to: no interpreter and no Ray has to start."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["orch", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def orch_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`orch` as a user runs it."""
    return subprocess.run([ORCH, *arguments], capture_output=True, text=True, timeout=300)


def facts(done: subprocess.CompletedProcess[str]) -> dict:
    """The last line of stdout, which is one JSON object."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def hashes(url: str, fingerprint: str, stage: str = "compgan") -> dict[str, str]:
    """sha256 of a recorded stage's files."""
    record = Artifacts(open_store(url), NodeCache(Path())).record(stage, fingerprint)
    assert record is not None
    return {name: entry.sha256 for name, entry in record.files.items()}
