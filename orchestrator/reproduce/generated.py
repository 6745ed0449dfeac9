"""Tables of generated faces: what a judge reads in edits, and in the faces that were synthesized to train on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from compgan_core.quality import READ
from compgan_core.variants import KINDS, RIVALS
from orchestrator.artifacts.artifacts import Record
from orchestrator.reproduce.evidence import Evidence
from orchestrator.reproduce.significance import Run, spread
from orchestrator.reproduce.tables import NOT_YET, Cell, Row, Table, shots_of

MAKERS = {"quality": "Comp-GAN"} | {f"quality {name}": title for name, title in RIVALS.items()}
"""Stage -> whose edits the judge reads in it."""


def generated_tables(evidence: Evidence) -> list[Table]:
    """Of the edits of each set of generators, and of the faces of each task."""
    places = dict.fromkeys((key.task, key.shots) for key in evidence.reproduction.wanted)
    tables = [_edited(evidence, tasks) for tasks in evidence.sharing_generators]
    return tables + [table for place in places if (table := _synthesized(evidence, *place)).rows]


def _edited(evidence: Evidence, tasks: Sequence[str]) -> Table:
    """Figs. 13 to 16 in numbers: what the judge reads in edited faces, and how far they are from the truth."""
    makers = {title: runs for stage, title in MAKERS.items() if (runs := evidence.by_seed(tasks[0], stage))}
    for what, study in evidence.reproduction.ablated.items():
        record = evidence.named(study).get("quality")
        if record and study.recipe.split.task == tasks[0]:
            makers[f"{MAKERS['quality']} {what}"] = {Run(study.recipe.seed, 0, 0): record}
    rows = []
    for edit, title in (("P", "pose edits"), ("E", "expression edits")):
        figures = {f"{edit}_judge_{what}": (1.0, 100.0) for what in READ} | {
            f"{edit}_l1": (50.0, 100.0),
            f"{edit}_lpips_judge": (100.0, math.inf),
            f"{edit}_fid_judge": (1.0, math.inf),
        }
        for maker, runs in makers.items():
            cells = [_metric(runs, name, *scale) for name, scale in figures.items()]
            rows.append(Row(f"{maker}, {title}", tuple(cells)))
        unedited = [Cell(why="the face as it was")] * len(READ)
        unedited += [
            _metric(makers[MAKERS["quality"]], f"{edit}_{of}_of_source", *figures[f"{edit}_{of}"])
            for of in ("l1", "lpips_judge")
        ]
        rows.append(Row(f"nothing edited, {title}", (*unedited, Cell(why="the face as it was")), control=True))
    real = [_metric(evidence.by_seed(tasks[0], "judge"), f"real_{what}") for what in READ]
    rows.append(Row("real faces", (*real, *[Cell(why="these are the truth")] * 3), control=True))
    note = (
        "Percent in which a judge that never supervised a generator reads what was intended, in faces that it was not "
        "trained on; L1 to the true face in percent of the range of a pixel; LPIPS (times 100, no learned weights) and "
        "FID on the judge's features, to be compared within this table only. Less is better of the last three."
    )
    name = f"Edited faces, {' and '.join(tasks)}"
    columns = (*READ, "L1", "LPIPS", "FID")
    return Table(name, "what Figs. 13 to 16 show, in numbers", columns, tuple(rows), note)


def _synthesized(evidence: Evidence, task: str, shots: int) -> Table:
    """How often the faces that were synthesized to train on show what their labels say."""
    found = evidence.synthesized(task, shots)
    rows = [
        Row(kind.title, tuple(_metric(found[name], what) for what in READ), control=kind.maker is None)
        for name, kind in KINDS.items()
        if name in found
    ]
    name = f"Synthesized faces, {task}" + (f", {shots_of(shots)}" if shots else "")
    note = "Percent in which the judge reads the label that the face carries in training."
    return Table(name, "do they show what they are labelled as?", READ, tuple(rows), note)


def _metric(runs: Mapping[Run, Record], name: str, scale: float = 1.0, most: float = 100.0) -> Cell:
    """A figure of records; scale: what it is multiplied by. most: what it can be at most then."""
    values = {run: scale * record.metrics[name] for run, record in runs.items() if name in record.metrics}
    return Cell(spread(values, most), None, tuple(runs.values())) if values else Cell(why=NOT_YET)
