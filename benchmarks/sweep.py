"""What a sweep costs that shares its stages: the paper's eleven counts of synthesized images (Sec. 5.4), one seed."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import torch

from benchmarks.timing import Figure, figure

HOME = Path(".local/benchmarks/sweep")
"""Kept, so that a second call goes on where the first was stopped; remove it to measure anew."""
IDENTITIES = 60
SHARED = ("pretrain", "classifier", "compgan")


def sweep(device: torch.device, repeats: int) -> list[Figure]:
    """Run once, whatever `repeats`: drawn faces in 16 expressions, preset `tiny`, on a Ray that is started here.

    All figures come from records, so that it does not matter where the machine was busy with something else.
    """
    from compgan_core.data.importers import procedural
    from orchestrator.artifacts.artifacts import Artifacts
    from orchestrator.artifacts.node_cache import NodeCache
    from orchestrator.artifacts.store import open_store
    from orchestrator.cli.output import Printer
    from orchestrator.cli.progress import watch
    from orchestrator.cli.sweep_view import watch_trials
    from orchestrator.datasets import add_dataset
    from orchestrator.ingest import Streamed
    from orchestrator.runtime.cluster import Workers, start_ray
    from orchestrator.runtime.ray_tune import Trials, place_trials
    from orchestrator.sweeps.cost import cost
    from orchestrator.sweeps.ledger import Ledger
    from orchestrator.sweeps.space import COUNT, COUNTS
    from orchestrator.sweeps.sweep import make_sweep, run_shared, run_sweep, stage_seconds

    artifacts = Artifacts(open_store(HOME / "store"), NodeCache((HOME / "cache").absolute()))
    faces = partial(procedural.read, identities=IDENTITIES, size=36)
    add_dataset(artifacts, Streamed(faces), "drawn", source_format="procedural")
    made = make_sweep(artifacts, data="drawn", task="ER-FE", preset="tiny", shots=5, seeds=1)
    settings, workers, console = Trials(), Workers(), Printer(False).console
    start_ray("local", dashboard=False)
    with watch(console) as on_stage:
        run_shared(made, artifacts, settings, 0, workers, on_stage)
    with watch_trials(console) as on_trial:
        run_sweep(made, artifacts, settings, 0, place_trials(settings, workers), HOME / "tune", on_trial)

    trials = [*Ledger(artifacts.store).trials(made.head.id).values()]
    assert len(trials) == len(COUNTS) and {trial.state for trial in trials} == {"finished"}, trials
    runs = Counter(record.stage for record in artifacts.records())
    assert [runs[kind] for kind in SHARED] == [1, 1, 1] and runs["synthesis"] == 2, runs
    seconds = stage_seconds(artifacts, trials)
    spent = cost(trials, seconds)
    single = cost([trial for trial in trials if trial.values[COUNT] == str(COUNTS[-1])], seconds)
    needed = Counter(name for trial in trials for result in trial.results for name in {*result.stages.values()})
    own = sum(seconds[name] for name, times in needed.items() if times == 1)  # the others ran before the trials
    beside = sum(trial.seconds for trial in trials) - own
    for stage in spent.stages:
        print(f"{stage.kind:12} {stage.runs:3} runs, {stage.seconds:7.1f} s")
    figures = {
        "eleven counts, all stages": ("s", spent.seconds),
        "their trials, beside their stages": ("s", beside),
        "one full run with 1,000 images, its stages": ("s", single.seconds),
        "eleven counts, all told / one full run": ("times", (spent.seconds + beside) / single.seconds),
        "eleven separate runs / eleven counts, stages": ("times", spent.separate_seconds / spent.seconds),
    }
    return [figure(name, unit, [value]) for name, (unit, value) in figures.items()]
