"""What a sweep costs that shares its stages: the paper's eleven counts of synthesized images (Sec. 5.4), one seed."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.timing import Figure, figure

IDENTITIES = 60
SHARED = ("pretrain", "classifier", "compgan")


def sweep(device: torch.device, repeats: int) -> list[Figure]:
    """Run once, whatever `repeats`: drawn faces in 16 expressions, preset `tiny`, on a Ray that is started here."""
    from compgan_core.data.importers import procedural
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.artifacts.node_cache import NodeCache
    from orchestrator.artifacts.store import open_store
    from orchestrator.datasets import add_dataset
    from orchestrator.ingest import Streamed
    from orchestrator.runtime.cluster import Workers, start_ray
    from orchestrator.runtime.ray_tune import Trials, place_trials
    from orchestrator.sweeps.cost import cost
    from orchestrator.sweeps.ledger import Ledger
    from orchestrator.sweeps.space import COUNT, COUNTS
    from orchestrator.sweeps.sweep import make_sweep, run_shared, run_sweep, stage_seconds

    with tempfile.TemporaryDirectory() as directory:
        artifacts = Artifacts(open_store(Path(directory) / "store"), NodeCache(Path(directory) / "cache"))
        faces = procedural.read(identities=IDENTITIES, size=36)
        add_dataset(artifacts, Streamed(lambda: faces), "drawn", source_format="procedural")
        made = make_sweep(artifacts, data="drawn", task="ER-FE", preset="tiny", shots=5, seeds=1)
        settings, workers = Trials(), Workers()
        started = time.perf_counter()
        start_ray("local", dashboard=False)
        run_shared(made, artifacts, settings, 0, workers, print)
        run_sweep(made, artifacts, settings, 0, place_trials(settings, workers), Path(directory), print)
        wall = time.perf_counter() - started
        trials = [*Ledger(artifacts.store).trials(made.head.id).values()]
        assert len(trials) == len(COUNTS) and {trial.state for trial in trials} == {"finished"}, trials
        runs = Counter(record.stage for record in artifacts.records())
        assert [runs[kind] for kind in SHARED] == [1, 1, 1] and runs["synthesis"] == 2, runs
        seconds = stage_seconds(artifacts, trials)
    spent = cost(trials, seconds)
    single = cost([trial for trial in trials if trial.values[COUNT] == str(COUNTS[-1])], seconds)
    named = {
        "eleven counts, all stages": ("s", spent.seconds),
        "eleven counts, wall time, Ray's start included": ("s", wall),
        "one full run with 1,000 images, its stages": ("s", single.seconds),
        "eleven counts / one full run": ("times", spent.seconds / single.seconds),
        "the same, by wall time of the sweep": ("times", wall / single.seconds),
        "eleven separate runs / eleven counts": ("times", spent.separate_seconds / spent.seconds),
    }
    for stage in spent.stages:
        print(f"{stage.kind:12} {stage.runs:3} runs, {stage.seconds:7.1f} s")
    return [figure(name, unit, [value]) for name, (unit, value) in named.items()]
