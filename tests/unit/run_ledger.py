"""A run's head, and events as a driver and its workers tell them."""

from __future__ import annotations

import time

from orchestrator.monitor.runs import PlannedStage, RunHead

NAMES = ("faces", "split", "pretrain", "classifier", "compgan", "judge", "quality", "pictures")
NAMES += tuple(f"{kind} {variant} #0" for kind in ("finetune", "evaluate") for variant in ("plain", "exp", "both"))


def head(id_: str = "20261127-081012-er-fe-3f2a", **fields: object) -> RunHead:
    stages = tuple(
        PlannedStage(
            name=name,
            kind=name.split()[0],
            fingerprint=f"{i:016x}",
            plan="cached" if name in ("faces", "split") else "run",
            inputs=NAMES[max(0, i - 1) : i],
        )
        for i, name in enumerate(NAMES)
    )
    return RunHead.model_validate(
        {
            "id": id_,
            "command": "orch train --data faces --task ER-FE",
            "description": "ER-FE, 5 shots on faces, preset small, seed 0",
            "study": "ER-FE-3f2a",
            "dataset": "faces",
            "recipe": {},
            "variants": {"plain": "L.", "exp": "L. + G(Exp)"},
            "stages": stages,
            "workers": {"num_workers": 2},
            "address": "10.0.0.1:6379",
            "host": "head",
            "code_version": "0.1.0",
            "started_at": time.time(),
            **fields,
        }
    )


def stage(name: str, state: str, seconds: float | None = None) -> dict:
    return {"kind": "stage", "name": name, "fingerprint": "0" * 16, "state": state, "seconds": seconds}


def progress(step: int, steps: int = 1000, **metrics: float) -> dict:
    return {"kind": "progress", "stage": "compgan", "step": step, "steps": steps, "metrics": metrics}


def worker(rank: int) -> dict:
    return {"kind": "worker", "rank": rank, "host": "node", "pid": 100 + rank, "device": "cpu"}


def checkpoint(step: int) -> dict:
    return {"kind": "checkpoint", "stage": "compgan", "step": step, "size_bytes": 4_100_000, "seconds": 0.5}


def log(message: str, stage: str = "", rank: int | None = None) -> dict:
    return {"kind": "log", "stage": stage, "rank": rank, "message": message}
