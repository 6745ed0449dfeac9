"""The report of a reproduction, for people and for programs: Markdown, HTML, CSV and LaTeX of the same tables."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compgan_core.variants import VARIANTS
from orchestrator.artifacts.artifacts import Record, home_of
from orchestrator.reproduce.figures import Figure
from orchestrator.reproduce.significance import Comparison
from orchestrator.reproduce.supervised import ROWS
from orchestrator.reproduce.tables import Cell, Finding, Table
from orchestrator.sweeps.analysis import Interval
from orchestrator.sweeps.charts import signed
from orchestrator.templates import templates

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Report:
    """Everything that a reproduction found."""

    title: str
    command: str
    store: str
    """Its URL."""
    facts: tuple[str, ...]
    """Sentences: what was computed, and over what."""
    tables: tuple[Table, ...]
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many claims of the paper, task by task, hold, do not, are undecided, or were not computed."""
        return Counter(str(f.verdict or "not computed") for f in self.findings if not f.claim.ours)

    @property
    def records(self) -> dict[str, Record]:
        """All that cells link to, by fingerprint, in the order of the tables."""
        cells = (cell for table in self.tables for row in table.rows for cell in row.cells)
        return {record.fingerprint: record for cell in cells for record in cell.records}

    def url(self, record: Record) -> str:
        """Where a record lies."""
        return f"{self.store.rstrip('/')}/{home_of(record.stage, record.fingerprint)}record.json"


def write_report(report: Report, directory: Path) -> dict[str, Path]:
    """Write report.md, index.html, cells.csv, claims.csv and tables.tex; the figures lie there already."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": _markdown(report),
        "index.html": _html(report, directory),
        "cells.csv": _cells(report),
        "claims.csv": _claims(report),
        "tables.tex": _latex(report),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8", newline="")
    return {name: directory / name for name in texts}


def shown(cell: Cell, dash: str = "–") -> str:
    """`22.0 [19.1, 24.9]`; the interval where there is one; empty where nothing was computed."""
    if cell.spread is None:
        return ""
    mean, interval = cell.spread.mean, cell.spread.interval
    return f"{mean:.1f}" + (f" [{interval.low:.1f}{dash}{interval.high:.1f}]" if interval else "")


def anchor(table: Table, row: int, column: int) -> str:
    """The id of the list of a cell's records."""
    return f"{re.sub('[^a-z0-9]+', '-', table.name.lower())}-{row}-{column}"


def difference(comparison: Comparison) -> str:
    """`+3.1`, with both intervals."""
    parts = {comparison.what: comparison.over_units, "images": comparison.over_images}
    inside = "; ".join(f"{name} {_span(interval)}" for name, interval in parts.items() if interval)
    return f"{signed(comparison.difference)} ({inside})" if inside else signed(comparison.difference)


def _span(interval: Interval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}"


def _titles(finding: Finding) -> tuple[str, str]:
    titles = {name: variant.title for name, variant in VARIANTS.items()} | ROWS
    fewer = f", {finding.claim.shots[1]} shot" if finding.claim.shots else ""
    return titles[finding.claim.better], titles[finding.against] + fewer


def _place(finding: Finding) -> str:
    return finding.task + (f", {finding.shots} shot{'s' * (finding.shots != 1)}" if finding.shots else "")


def _markdown(report: Report) -> str:
    lines = [f"# {report.title}", "", f"`{report.command}`", "", *(f"- {fact}" for fact in report.facts), ""]
    lines += ["## Claims", "", _summary(report), ""]
    lines += ["| claim | task | better | than | paper | here | verdict |", "|---|---|---|---|---|---|---|"]
    for finding in report.findings:
        better, worse = _titles(finding)
        here = "; ".join(f"{measure}: {difference(c)}" for measure, c in finding.by_measure.items()) or finding.why
        printed = signed(finding.paper) if finding.paper is not None else ""
        said = finding.claim.said + " (a control, not a claim of the paper)" * finding.claim.ours
        verdict = (
            f"**{finding.verdict}**" + ": measures disagree" * finding.disagree if finding.verdict else "not computed"
        )
        lines.append(f"| {said} | {_place(finding)} | {better} | {worse} | {printed} | {here} | {verdict} |")
    for table in report.tables:
        lines += ["", f"## {table.name}: {table.title}", "", table.note, ""]
        lines += [f"| | {' | '.join(table.columns)} |", "|---" * (len(table.columns) + 1) + "|"]
        reasons: dict[str, int] = {}
        for i, row in enumerate(table.rows):
            cells = [_markdown_cell(table, i, j, cell, reasons) for j, cell in enumerate(row.cells)]
            lines.append(f"| {row.title} | {' | '.join(cells)} |")
        lines += ["", *(f"{number}. {why}" for why, number in reasons.items())]
    lines += ["", "## Figures", ""]
    for figure in report.figures:
        lines += [f"### {figure.name}: {figure.title}", "", figure.caption or figure.why, ""]
        lines += [f"{shows}\n\n![{shows or figure.title}]({name})\n" for name, shows in figure.files.items()]
    lines += ["## Records", "", "Which records each number was computed from.", ""]
    for table in report.tables:
        for i, row in enumerate(table.rows):
            for j, cell in enumerate(row.cells):
                if cell.records:
                    keys = ", ".join(f"[{r.fingerprint[:8]}]({report.url(r)})" for r in cell.records)
                    where = f"{table.name}, {row.title}, {table.columns[j]}"
                    lines.append(f'<a id="{anchor(table, i, j)}"></a>{where}: {keys}<br>')
    return "\n".join(lines) + "\n"


def _markdown_cell(table: Table, i: int, j: int, cell: Cell, reasons: dict[str, int]) -> str:
    printed = f" *{cell.paper:.2f}*" if cell.paper is not None else ""
    if cell.spread:
        return f"[{shown(cell)}](#{anchor(table, i, j)}){printed}"
    number = reasons.setdefault(cell.why, len(reasons) + 1)
    return f"({number}){printed}"


def _summary(report: Report) -> str:
    counts = report.counts
    rest = f", {counts['not computed']} could not be computed" if counts["not computed"] else ""
    return (
        f"Of the paper's claims, counted on each task and against each rival: {counts['holds']} hold, "
        f"{counts['does not hold']} do not, {counts['undecided']} are undecided{rest}. A claim is "
        "decided where the 95% intervals over draws (or seeds) and over test images lie on one side of zero; no "
        "correction is made for their number. Of differences the first measure decides, unless another one decides the "
        "other way: then faces move the classifier's bias, and the claim is undecided."
    )


def _html(report: Report, directory: Path) -> str:
    environment = templates(Path(__file__).parent)
    environment.filters |= {"signed": signed, "shown": shown, "difference": difference}
    return environment.get_template(TEMPLATE).render(
        report=report,
        summary=_summary(report),
        anchor=anchor,
        place=_place,
        groups=_groups(report.findings),
        titles=_titles,
        embedded={name: figure.embedded(directory / name) for figure in report.figures for name in figure.files},
    )


@dataclass(frozen=True)
class Group:
    """Claims of one kind, which are made on the same tasks."""

    about: str
    places: tuple[str, ...]
    """Tasks, with the number of shots."""
    claims: dict[tuple[str, bool], dict[str, dict[str, Finding]]]
    """(claim, whether it is ours) -> row that it is against -> place -> finding."""


def _groups(findings: Sequence[Finding]) -> list[Group]:
    groups = []
    for about in dict.fromkeys(finding.about for finding in findings):
        of = [finding for finding in findings if finding.about == about]
        claims: dict[tuple[str, bool], dict[str, dict[str, Finding]]] = {}
        for finding in of:
            rows = claims.setdefault((finding.claim.said, finding.claim.ours), {})
            rows.setdefault(_titles(finding)[1], {})[_place(finding)] = finding
        groups.append(Group(about, tuple(dict.fromkeys(_place(finding) for finding in of)), claims))
    return groups


def _cells(report: Report) -> str:
    """A line for each number."""
    rows = []
    for table in report.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                spread, (low, high) = cell.spread, (cell.spread and cell.spread.interval) or (None, None)
                rows.append(
                    {
                        "table": table.name,
                        "row": row.title,
                        "column": column,
                        "mean": spread and spread.mean,
                        "low": low,
                        "high": high,
                        "units": spread and spread.units,
                        "runs": spread and spread.runs,
                        "paper": cell.paper,
                        "why_not": cell.why,
                        "records": " ".join(report.url(record) for record in cell.records),
                    }
                )
    return _csv(rows)


def _claims(report: Report) -> str:
    rows = []
    for finding in report.findings:
        better, worse = _titles(finding)
        about = {
            "claim": finding.claim.said,
            "of_the_paper": not finding.claim.ours,
            "task": finding.task,
            "shots": finding.shots or None,
            "better": better,
            "worse": worse,
            "paper": finding.paper,
            "verdict": finding.verdict or "not computed",
            "why_not": finding.why,
        }
        for measure, compared in finding.by_measure.items() or [("", None)]:
            draws, images = (compared.over_units, compared.over_images) if compared else (None, None)
            rows.append(
                {
                    **about,
                    "measure": measure,
                    "difference": compared and compared.difference,
                    "units": compared and compared.units,
                    **dict(zip(("over_units_low", "over_units_high"), draws or (None, None), strict=True)),
                    **dict(zip(("over_images_low", "over_images_high"), images or (None, None), strict=True)),
                }
            )
    return _csv(rows)


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _latex(report: Report) -> str:
    """Plain tabulars: the number, its interval, and the paper's number in italics."""
    lines = ["% " + report.command.replace("\n", " ")]
    for table in report.tables:
        columns = " & ".join(_tex(column) for column in table.columns)
        lines += ["", r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\hline"]
        lines += [rf" & {columns} \\", r"\hline"]
        for row in table.rows:
            cells = [_tex_cell(cell) for cell in row.cells]
            lines.append(rf"{_tex(row.title)} & {' & '.join(cells)} \\")
        caption = _tex(f"{table.name}: {table.title}. {table.note} In italics: the paper's figures.")
        lines += [r"\hline", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell) -> str:
    printed = rf"\textit{{{cell.paper:.2f}}}" if cell.paper is not None else ""
    return " ".join(filter(None, (shown(cell, "--") or "n/a", printed)))


def _tex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
