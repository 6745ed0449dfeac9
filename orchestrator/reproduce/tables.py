"""The tables and the claims, from what the records say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compgan_core.data.splits import FEW_SHOT_TASKS, NOVEL_ATTRIBUTE
from compgan_core.variants import RIVALS, VARIANTS
from orchestrator.artifacts.artifacts import Record
from orchestrator.datasets import Dataset
from orchestrator.reproduce.evidence import TABLE_7, Evidence
from orchestrator.reproduce.paper import Claim, PaperTable, paper
from orchestrator.reproduce.reproduction import Key
from orchestrator.reproduce.significance import Comparison, Run, Spread, Verdict, compare, spread
from orchestrator.reproduce.supervised import ROWS
from orchestrator.results import COLUMNS

F2ED_SUPERVISED = 69.13
"""Accuracy of Comp-GAN-Cls on F2ED (Sec. 5.1)."""
PRESERVED = {"expression": ("E",), "pose": ("P",), "identity": ("P", "E")}
"""What generated faces shall have (Figs. 13-15), and the edits that it is read in."""
JUDGED = "read by the judge"
NOT_YET = "has not run yet"


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent, or why there is none."""

    spread: Spread | None = None
    paper: float | None = None
    records: tuple[Record, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    cells: tuple[Cell, ...]
    control: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    name: str
    """`Table 4`, or `ER-FE, 1 shot`."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim on one task: what the paper's figures say of it, and what ours say."""

    claim: Claim
    task: str
    shots: int
    against: str
    paper: float | None
    """Difference in percentage points."""
    by_measure: dict[str, Comparison]
    """The first decides unless another one decides the other way; empty if it could not be computed."""
    why: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """None if it could not be computed. Undecided, too, where measures disagree: a rise of one against a fall of
        another may be a mere shift of the classifier's bias."""
        if not self.by_measure:
            return None
        first = next(iter(self.by_measure.values())).verdict
        return "undecided" if self.disagree else first

    @property
    def about(self) -> str:
        """What kind of claim it is."""
        if JUDGED in self.by_measure:
            return "What a judge reads in generated faces"
        return "Pre-training" if self.claim.table in paper().supervised else "Recognition"

    @property
    def disagree(self) -> bool:
        """Whether the first measure decides, and another one the other way."""
        first, *others = (compared.verdict for compared in self.by_measure.values())
        return first != "undecided" and any(verdict not in (first, "undecided") for verdict in others)


def measures_of(task: str) -> tuple[str, ...]:
    """What claims on a task are decided by, first, and what stands beside it."""
    novel = NOVEL_ATTRIBUTE[task]
    if novel is None:
        return ("pooled",)
    return ("novel", "novel_only", "pooled") if novel == "expression" else ("novel", "pooled")


def tables_of(evidence: Evidence) -> list[Table]:
    """Tables 4 to 7 as the paper has them, and then every measure of every row of each task."""
    wanted = [number for number in evidence.reproduction.tables if number in paper().tables]
    made = [_five_metrics(evidence) if number == 7 else _by_task(evidence, number) for number in wanted]
    made = [
        _supervised(evidence, number) for number in evidence.reproduction.tables if number in paper().supervised
    ] + made
    if evidence.reproduction.supervised:
        made.append(_own_supervised(evidence))
    seen = dict.fromkeys((key.task, key.shots) for key in evidence.reproduction.wanted)
    return made + [_in_full(evidence, task, shots) for task, shots in seen]


def _by_task(evidence: Evidence, number: int) -> Table:
    """Tables 4, 5 and 6: a column for each task, or for each number of shots of each."""
    table, made = paper().tables[number], evidence.reproduction
    asked = [task for task in table.tasks if task in made.tasks]
    places = [(task, shots) for task in asked for shots in made.shots_of(number, task)]
    rows = []
    for variant in _with_controls(table.rows, [task for task, _ in places], evidence):
        cells = [
            _cell(evidence, task, shots, variant, measures_of(task)[0], _printed(table, variant, task, shots))
            for task, shots in places
        ]
        rows.append(Row(VARIANTS[variant].title, tuple(cells), variant not in table.rows))
    columns = tuple(task + (f", {shots_of(shots)}" if len(table.shots) > 1 else "") for task, shots in places)
    shots = "" if len(table.shots) > 1 else f" {shots_of(made.shots)} of each novel category in the few-shot tasks."
    if shots and made.shots != table.shots[0]:
        shots += f" The paper's figures are of {shots_of(table.shots[0])}."
    unasked = [task for task in table.tasks if task not in asked]
    left_out = f" Not asked for: {', '.join(unasked)}." if unasked else ""
    return Table(
        f"Table {number}",
        table.title,
        columns,
        tuple(rows),
        f"Accuracy in % on novel test images against all labels (ER-SS: on all test images).{shots}{left_out}",
    )


def _five_metrics(evidence: Evidence) -> Table:
    table, (task,) = paper().tables[7], paper().tables[7].tasks
    shots = evidence.reproduction.shots
    rows = []
    for variant in _with_controls(table.rows, [task], evidence):
        printed = table.values.get(variant, {}).get(task)
        known = printed if isinstance(printed, tuple) else (None,) * len(TABLE_7)
        cells = [
            _cell(evidence, task, shots, variant, measure, figure)
            for measure, figure in zip(TABLE_7, known, strict=True)
        ]
        rows.append(Row(VARIANTS[variant].title, tuple(cells), variant not in table.rows))
    note = (
        f"On novel test images, {shots_of(shots)}: top-1 accuracy, Eq. (14) of one-hot labels, and precision, recall "
        "and F1 averaged over classes. With one label an image Eq. (15) to (17) are all equal to the accuracy, which "
        "the paper's own columns are not, so its precision and recall were something else."
    )
    return Table("Table 7", table.title, tuple(TABLE_7.values()), tuple(rows), note)


def _in_full(evidence: Evidence, task: str, shots: int) -> Table:
    """Every measure of every row."""
    novel = NOVEL_ATTRIBUTE[task]
    columns = [c for c in COLUMNS if novel or c in ("base", "pooled")]
    columns = [c for c in columns if novel == "expression" or c != "novel_only"]  # elsewhere it is `novel` again
    wanted = next(rows for key, rows in evidence.reproduction.wanted.items() if (key.task, key.shots) == (task, shots))
    rows = [
        Row(
            VARIANTS[variant].title,
            tuple(_cell(evidence, task, shots, variant, column, None) for column in columns),
            variant in ("degraded", "mirrored", "oracle"),
        )
        for variant in wanted
    ]
    name = f"{task}, {shots_of(shots)}" if shots else task
    return Table(name, "Every measure side by side", tuple(COLUMNS[c] for c in columns), tuple(rows), "Accuracy in %.")


def _supervised(evidence: Evidence, number: int) -> Table:
    """Tables 2 and 3: the paper's rows, and below them those that only we have."""
    table = paper().supervised[number]
    dataset = evidence.reproduction.others.get(table.data)
    runs = evidence.supervised(dataset) if dataset else {}
    absent = NOT_YET if dataset else f"{table.data.upper()} was not imported: see orch data import {table.data} --help"
    by_name = {name: row for row, name in table.computed.items()}
    rows = []
    for name, figure in table.quoted.items():
        row = by_name.get(name)
        why = absent if row else "quoted from the paper, not computed here"
        title = f"{ROWS[row]}, for {name}" if row else f"{name} (quoted)"
        rows.append(Row(title, (_accuracy(runs.get(row or "", {}), figure, why),)))
    for row in ROWS:
        if row not in table.computed:
            printed = {"scratch": table.scratch, "pretrained": table.pretrained}.get(row)
            rows.append(Row(ROWS[row], (_accuracy(runs.get(row, {}), printed, absent),), printed is None))
    name = evidence.reproduction.dataset.manifest.name
    note = f"Accuracy in % on the test faces; pre-trained on {name}, the paper's on F2ED."
    return Table(f"Table {number}", table.title, ("accuracy",), tuple(rows), note)


def _own_supervised(evidence: Evidence) -> Table:
    """The same rows on the data set itself; the paper has one figure of F2ED."""
    dataset, before = evidence.reproduction.dataset, evidence.reproduction.before
    runs = evidence.supervised(dataset)
    reasons = {"pretrained": "nothing to pre-train on was given: see --pretrained-on"} if before is None else {}
    rows = [
        Row(
            title,
            (_accuracy(runs.get(row, {}), F2ED_SUPERVISED if row == "scratch" else None, reasons.get(row, NOT_YET)),),
        )
        for row, title in ROWS.items()
    ]
    name = f"Supervised on {dataset.manifest.name}"
    return Table(
        name, "the same methods on these faces (Sec. 5.1)", ("accuracy",), tuple(rows), "Accuracy in % on test faces."
    )


def _accuracy(runs: Mapping[Run, Record], printed: float | None, why: str) -> Cell:
    if not runs:
        return Cell(None, printed, (), why)
    accuracies = {run: record.metrics["accuracy"] for run, record in runs.items()}
    return Cell(spread(accuracies), printed, tuple(runs.values()))


def _cell(evidence: Evidence, task: str, shots: int, variant: str, measure: str, printed: float | None) -> Cell:
    values, records = evidence.values(task, shots, variant, measure), evidence.runs(task, shots, variant).values()
    if values:
        return Cell(spread(values), printed, tuple(records))
    if records:
        return Cell(None, printed, (), "not defined for the one class that is tested")
    made = evidence.reproduction
    why = made.missing(Key(task, shots, made.seeds[0]), variant)
    return Cell(None, printed, (), why or NOT_YET)


def _with_controls(rows: Sequence[str], tasks: Sequence[str], evidence: Evidence) -> list[str]:
    """The paper's rows, and the controls that any of the tasks has."""
    there = [v for key, variants in evidence.reproduction.wanted.items() if key.task in tasks for v in variants]
    return [*rows, *(v for v in ("degraded", "mirrored", "oracle") if v in there)]


def findings_of(evidence: Evidence) -> list[Finding]:
    """Every claim on every task, in the paper's order, and what the judge reads in generated faces at the end."""
    made, found = evidence.reproduction, []
    for claim in paper().claims:
        if claim.table not in made.tables:
            continue
        table = paper().tables[claim.table]
        for task in (task for task in claim.tasks if task in made.tasks):
            for shots in made.shots_of(claim.table, task) if claim.shots is None else claim.shots[:1]:
                found += [_finding(evidence, claim, table, task, shots, worse) for worse in claim.worse]
    return found + _pretraining(evidence) + _preservation(evidence)


def _pretraining(evidence: Evidence) -> list[Finding]:
    """Whether pre-training helps, on FER2013, on JAFFE and on the data set itself."""
    made, found = evidence.reproduction, []
    for number in (number for number in made.tables if number in paper().supervised):
        table = paper().supervised[number]
        said = f"Pre-training on F2ED helps (Sec. 5.1, Table {number})"
        claim = Claim(said=said, table=number, better="pretrained", worse=("scratch",))
        dataset, printed = made.others.get(table.data), table.pretrained - table.scratch
        why = "" if dataset else f"{table.data.upper()} was not imported"
        found.append(_helped(evidence, claim, table.data, dataset, printed, why))
    if made.supervised and made.before is not None:
        claim = Claim(
            said="Pre-training helps on these faces", table=2, better="pretrained", worse=("scratch",), ours=True
        )
        found.append(_helped(evidence, claim, made.dataset.manifest.name, made.dataset, None, ""))
    return found


def _helped(
    evidence: Evidence, claim: Claim, where: str, dataset: Dataset | None, printed: float | None, why: str
) -> Finding:
    hits = [evidence.supervised_hits(dataset, row) if dataset else {} for row in ("pretrained", "scratch")]
    compared = compare(hits[0], hits[1])
    by_measure = {"accuracy": compared} if compared else {}
    return Finding(claim, where, 0, "scratch", printed, by_measure, "" if compared else why or NOT_YET)


def _finding(evidence: Evidence, claim: Claim, table: PaperTable, task: str, shots: int, worse: str) -> Finding:
    sides = ((claim.better, shots), (worse, claim.shots[1] if claim.shots else shots))
    figures = [_printed(table, variant, task, k) for variant, k in sides]
    printed = None if None in figures else figures[0] - figures[1]  # type: ignore[operator]
    by_measure = {}
    for measure in measures_of(task):
        better, other = (evidence.hits(task, k, variant, measure) for variant, k in sides)
        compared = compare(better, other)
        if compared:
            by_measure[measure] = compared
    why = ""
    if not by_measure:
        made = evidence.reproduction
        why = next(filter(None, (made.missing(Key(task, k, made.seeds[0]), variant) for variant, k in sides)), NOT_YET)
    return Finding(claim, task, shots, worse, printed, by_measure, why)


def _preservation(evidence: Evidence) -> list[Finding]:
    """Whether the judge reads more of Comp-GAN's faces as intended than of a rival's (Figs. 13-15)."""
    found = []
    for what, edits in PRESERVED.items():
        said = (
            f"Generated faces show the intended {what} more often than those of other generators (Fig. {_figure(what)})"
        )
        for tasks in evidence.sharing_generators:
            ours = evidence.edits_read(tasks[0], "quality", what, edits)
            for rival in RIVALS:
                compared = compare(ours, evidence.edits_read(tasks[0], f"quality {rival}", what, edits))
                if compared:
                    claim = Claim(said=said, table=4, better="compgan", worse=(rival,))
                    found.append(Finding(claim, " and ".join(tasks), 0, rival, None, {JUDGED: compared}))
    return found


def _figure(what: str) -> int:
    return {"expression": 13, "pose": 14, "identity": 15}[what]


def _printed(table: PaperTable, variant: str, task: str, shots: int) -> float | None:
    """The paper's figure; None where it has none for this row, or not for this number of shots."""
    figure = table.values.get(variant, {}).get(task)
    if isinstance(figure, tuple):
        if task not in FEW_SHOT_TASKS or len(table.shots) == 1:
            return figure[0]
        return figure[table.shots.index(shots)] if shots in table.shots else None
    return figure


def shots_of(shots: int) -> str:
    """`1 shot`, `5 shots`."""
    return f"{shots} shot{'s' * (shots != 1)}"
