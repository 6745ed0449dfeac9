"""What a sweep found, in a directory: tables as CSV and JSON, charts as PNG, and one page that holds everything."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import to_json

from orchestrator.sweeps import charts
from orchestrator.sweeps.analysis import Interval, Line
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.page import page

BARS = 40


def write_report(directory: Path, findings: Findings) -> list[Path]:
    """Write leaderboard.csv, leaderboard.json, index.html, and the charts for which there are trials."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {"leaderboard.csv": _csv(findings), "leaderboard.json": _json(findings), "index.html": page(findings)}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8", newline="")
    drawn = _pictures(findings)
    for name, (draw, size) in drawn.items():
        charts.png(draw, size, directory / name)
    return [directory / name for name in (*texts, *drawn)]


def _csv(findings: Findings) -> str:
    rows = [_row(place, line) for place, line in enumerate(findings.lines, start=1)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(place: int, line: Line) -> dict[str, object]:
    difference = line.difference
    return {
        "place": place,
        "state": line.state,
        **line.values,
        **_spread("mean", line.mean, line.interval),
        "deviation": line.deviation,
        "seeds": len(line.by_seed),
        **_spread("difference", difference.mean if difference else None, difference.interval if difference else None),
        "seconds": round(line.seconds, 1),
        "tries": line.tries,
        "key": line.key,
        "failure": line.failure,
        **line.measures,
    }


def _spread(name: str, mean: float | None, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _json(findings: Findings) -> str:
    return to_json(
        {
            "sweep": findings.head,
            "command": findings.command,
            "variant": findings.variant,
            "chosen": findings.chosen and findings.chosen.key,
            "baseline": findings.baseline and findings.baseline.key,
            "lines": findings.lines,
            "effects": findings.effects,
            "changes": findings.changes,
            "cost": findings.cost,
            "test": findings.test,
        },
        indent=1,
    ).decode()


def _pictures(findings: Findings) -> dict[str, tuple[charts.Draw, charts.Size]]:
    """File name -> chart and its size."""
    found = {}
    if findings.curve:
        found["accuracy_by_count.png"] = (findings.curve, (7.5, 4.2))
    if findings.panels:
        columns = min(charts.PANELS_A_ROW, len(findings.panels))
        size = (2.5 * columns, 2.3 * -(-len(findings.panels) // columns))
        found["main_effects.png"] = (charts.panels(findings.panels, findings.baseline), size)
    if findings.changes:
        bars = [charts.Bar(c.name, c.difference.mean, c.difference.interval) for c in findings.changes]
        found["ablation.png"] = (charts.bars(bars, 0.0, "percentage points against the full model"), _height(bars))
    if findings.finished:
        shown = findings.finished[:BARS]
        bars = [
            charts.Bar(findings.name(x), x.mean, x.interval, tuple(x.by_seed.values()))
            for x in shown
            if x.mean is not None
        ]
        found["leaderboard.png"] = (charts.bars(bars, findings.reference, f"{findings.measure} (%)"), _height(bars))
    return found


def _height(bars: Sequence[charts.Bar]) -> charts.Size:
    return 8.0, 1.0 + 0.26 * len(bars)
