"""The page of a run: one HTML file that needs nothing else. It is made of the run's ledger and of records alone."""

from __future__ import annotations

import base64
import io
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from compgan_core.lapse import COLUMNS as LAPSE_COLUMNS
from orchestrator.artifacts.artifacts import Artifacts, Record
from orchestrator.monitor.runs import RunHead, Runs, Status, faces_of
from orchestrator.results import COLUMNS, table
from orchestrator.sweeps.page import duration
from orchestrator.templates import templates

TEMPLATE = "report.html.jinja"
FRAMES, FRAMES_BYTES, FRAME_WIDTH = 24, 2_500_000, 720
ROWS, POINTS = 500, 200
"""Of a history, and of a curve on the page, at most."""
CONFUSION = {"base": "base faces", "novel": "novel faces, all labels", "novel_only": "novel faces, novel labels"}


class Frame(NamedTuple):
    """A picture of the time-lapse, as a data URL."""

    step: int
    url: str


class Curve(NamedTuple):
    """One metric of one stage: an SVG path in a box of 300 x 100, and the range that the box spans."""

    name: str
    path: str
    low: float
    high: float
    last: float


class Confusion(NamedTuple):
    """A matrix of counts, row: truth, column: what was read; and for each label (count, precision, recall, F1)."""

    title: str
    labels: list[str]
    counts: list[list[int]]
    shares: list[list[float]]
    classes: list[tuple[str, int, float | None, float | None, float | None]]


def write_report(artifacts: Artifacts, head: RunHead, path: Path) -> Path:
    """Write the page; the run may still be running. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(artifacts, head), encoding="utf-8")
    return path


def page(artifacts: Artifacts, head: RunHead) -> str:
    """The whole HTML text."""
    status = Runs(artifacts.store).status(head.id)
    records = records_of(artifacts, head)
    names = {stage.fingerprint: stage.name for stage in head.stages}
    environment = templates(Path(__file__).parent)
    now = time.time()
    embedding, why_not = identities(artifacts, records)
    return environment.get_template(TEMPLATE).render(
        head=head,
        status=status,
        seen=status.seen(now),
        duration=duration(head.seconds(status, now)),
        cost=head.cost(status, now),
        records=records,
        names=names,
        rows=table(head.variants, records),
        columns=COLUMNS,
        curves={name: curves(rows) for name, rows in histories(artifacts, head, status, records).items() if rows},
        frames=frames(artifacts, head),
        lapse_columns=LAPSE_COLUMNS,
        confusions={
            name: confusions(artifacts, record) for name, record in records.items() if "confusion.npz" in record.files
        },
        identities=embedding,
        why_no_identities=why_not,
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(head.started_at)),
        store=artifacts.store.url,
    )


def records_of(artifacts: Artifacts, head: RunHead) -> dict[str, Record]:
    """The records there are of the run's stages, by name."""
    found = {stage.name: artifacts.record(stage.kind, stage.fingerprint) for stage in head.stages}
    return {name: record for name, record in found.items() if record}


def histories(
    artifacts: Artifacts, head: RunHead, status: Status, records: Mapping[str, Record]
) -> dict[str, list[dict[str, float]]]:
    """Rows of metrics by stage: of finished ones from their records, of the present one from the ledger."""
    found: dict[str, list[dict[str, float]]] = {}
    for stage in head.stages:
        record = records.get(stage.name)
        if record and "history.json" in record.files:
            found[stage.name] = _evenly(json.loads(artifacts.read(record, "history.json")), ROWS)
        elif not record and stage.name == status.current:
            found[stage.name] = status.history
    return found


def curves(rows: Sequence[Mapping[str, float]]) -> list[Curve]:
    """One for each metric, losses first; gradient norms and how the loop runs last."""
    names = [name for name in rows[-1] if name != "step"]
    last = ("grad_norm_", "images_per_s", "lr_", "seconds_")
    return [_curve(name, rows) for name in sorted(names, key=lambda name: (name.startswith(last), names.index(name)))]


def _curve(name: str, rows: Sequence[Mapping[str, float]]) -> Curve:
    known = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
    thin = known[:: -(-len(known) // POINTS)] + known[-1:]
    low, high = min(y for _, y in thin), max(y for _, y in thin)
    first, last = thin[0][0], max(thin[-1][0], thin[0][0] + 1)
    points = [
        f"{300 * (x - first) / (last - first):.1f} {100 - 100 * (y - low) / ((high - low) or 1):.1f}" for x, y in thin
    ]
    return Curve(name, "M" + "L".join(points), low, high, thin[-1][1])


def frames(artifacts: Artifacts, head: RunHead) -> list[Frame]:
    """At most `FRAMES` pictures of the time-lapse, evenly chosen; fewer if they take more than `FRAMES_BYTES`."""
    stage = next((stage for stage in head.stages if stage.kind == "compgan"), None)
    keys = [*artifacts.store.keys(faces_of(stage.fingerprint))] if stage else []
    found = [Frame(int(Path(key).stem), _small(artifacts.store.get_bytes(key))) for key in _evenly(keys, FRAMES)]
    while sum(len(frame.url) for frame in found) > FRAMES_BYTES:
        found = _evenly(found, len(found) // 2)
    return found


def _evenly(items: list[Any], count: int) -> list[Any]:
    """At most `count` of them, the first and the last among them."""
    last = len(items) - 1
    return [items[round(i * last / (count - 1))] for i in range(count)] if len(items) > count > 1 else items[-count:]


def confusions(artifacts: Artifacts, record: Record) -> list[Confusion]:
    """The matrices that hold anything, without the labels that nothing has and nothing was read as."""
    labels = json.loads(artifacts.read(record, "expressions.json"))
    with np.load(io.BytesIO(artifacts.read(record, "confusion.npz")), allow_pickle=False) as file:
        matrices = {name: file[name] for name in CONFUSION if name in file}
    return [_confusion(CONFUSION[name], labels, counts) for name, counts in matrices.items() if counts.any()]


def _confusion(title: str, labels: Sequence[str], counts: np.ndarray) -> Confusion:
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(used, used)]
    right, truth, read = counts.diagonal(), counts.sum(1), counts.sum(0)
    classes = []
    for i, label in enumerate(used):
        precision = 100 * right[i] / read[i] if read[i] else None
        recall = 100 * right[i] / truth[i] if truth[i] else None
        f1 = 200 * right[i] / (read[i] + truth[i]) if truth[i] else None
        classes.append((labels[int(label)], int(truth[i]), precision, recall, f1))
    shares = counts / np.maximum(1, truth)[:, None]
    return Confusion(title, [labels[int(i)] for i in used], counts.tolist(), shares.round(3).tolist(), classes)


def identities(artifacts: Artifacts, records: Mapping[str, Record]) -> tuple[dict[str, Any] | None, str]:
    """Fig. 18: where a t-SNE puts the features of faces and of their edits; or None and why there is none."""
    record = records.get("quality")
    if record is None or "identities.safetensors" not in record.files:
        return None, "the stage quality has no record yet"
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None, "scikit-learn is not installed where this page was made: install compgan-orchestrator[report]"
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as scratch:
        artifacts.download(record, "identities.safetensors", Path(scratch) / "features")
        features = load_file(Path(scratch) / "features")
    people = len(features["identity"])
    parts = {"source": features["source"][:, None], "G(Pose)": features["pose"], "G(Exp)": features["exp"]}
    flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts.values()])
    spots = TSNE(perplexity=min(20, (len(flat) - 1) / 3), init="pca", random_state=0).fit_transform(flat)
    spots = 4 + 92 * (spots - spots.min(0)) / np.maximum(1e-9, np.ptp(spots, 0))
    points, start = [], 0
    for kind, part in parts.items():
        for person in range(people):
            for x, y in spots[start : start + part.shape[1]]:
                points.append((kind, person, round(float(x), 1), round(float(y), 1)))
            start += part.shape[1]
    return {"points": points, "people": people}, ""


def _small(picture: bytes) -> str:
    image = Image.open(io.BytesIO(picture), formats=["JPEG"])
    image.thumbnail((FRAME_WIDTH, FRAME_WIDTH))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
