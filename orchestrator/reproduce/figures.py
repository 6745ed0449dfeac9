"""The figures, from records: charts, and the sheets of faces that stages have drawn."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load

from compgan_core.data.cache import Faces
from compgan_core.pictures import face_grid
from orchestrator.artifacts.artifacts import Record
from orchestrator.datasets import write_figure
from orchestrator.monitor.report import Confusion, confusions, identities
from orchestrator.reproduce.evidence import Evidence
from orchestrator.reproduce.generated import MAKERS
from orchestrator.reproduce.paper import paper
from orchestrator.reproduce.supervised import ROWS
from orchestrator.study import Study
from orchestrator.sweeps import charts

MIN_POINTS = 6
MARKS = ("o", "s", "^", "D", "v")
SHOWN_CATEGORIES = 15  # of Fig. 13
MATRIX_NUMBERS = 20  # classes up to which a matrix has room for them
SHOWN_SHOTS, SHOWN_FACES = (1, 3, 5), 10
TSNE_COLOURS = ("#006e5a", "#c2571a", "#3b5bab", "#a3262a", "#7a5195", "#b58900", "#2a8fa8", "#5f636b", "#d1679d")


@dataclass(frozen=True)
class Figure:
    """A figure of the report, or why there is none."""

    name: str
    """`Fig. 13`."""
    title: str
    caption: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """PNG files in the directory of the report, and what each shows where there are several."""
    why: str = ""

    def embedded(self, path: Path) -> str:
        """A picture as a data URL, in a tenth of the bytes."""
        file = io.BytesIO()
        Image.open(path, formats=["PNG"]).convert("RGB").save(file, "WEBP", quality=88)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def figures_of(evidence: Evidence, directory: Path) -> list[Figure]:
    """Figs. 5, 6 and 11 to 18, drawn into `directory`, of the first task that has been run."""
    made = evidence.reproduction
    found = [_alike(evidence, directory)]
    write_figure(made.dataset, directory / "distribution.png")
    counted = f"Of {made.dataset.manifest.kept} faces."
    found.append(Figure("Figs. 5 and 6", "Faces by identity, pose and expression", counted, {"distribution.png": ""}))
    found += _confusions(evidence, directory)
    study = _first_drawn(evidence)
    if study is None:
        return [
            *found,
            Figure(
                "Figs. 11 to 18", "Generated faces", why="no generator has been trained: they come with Tables 4 to 7"
            ),
        ]
    records, task = evidence.named(study), study.recipe.split.task
    found.append(_sheets(evidence, directory, "Fig. 11", "Faces edited by Comp-GAN", records, ("pictures",)))
    rivals = tuple(name for name in records if name.startswith("pictures "))
    found.append(
        _sheets(evidence, directory, "Fig. 12", "The same faces, edited by the other generators", records, rivals)
    )
    found += _preservation(evidence, directory, records, task)
    found.append(_ablations(evidence, directory))
    found.append(_by_shots(evidence, directory))
    found.append(_identities(evidence, directory, records))
    return found


def _alike(evidence: Evidence, directory: Path) -> Figure:
    """Fig. 3: faces of one person in expressions that are hard to tell apart."""
    title = "Expressions of one person that are hard to tell apart, by t-SNE"
    made = evidence.reproduction
    study = next((study for study in made.supervised.values() if study.dataset == made.dataset), None)
    record = evidence.records.get(study.alike.fingerprint) if study else None
    if record is None or "features.safetensors" not in record.files:
        return Figure("Fig. 3", title, why="its features come with Tables 2 and 3: ask for them, too")
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return Figure("Fig. 3", title, why="scikit-learn is not installed: install compgan-orchestrator[report]")
    features = load(evidence.artifacts.read(record, "features.safetensors"))["features"]
    names = json.loads(evidence.artifacts.read(record, "expressions.json"))
    if len(names) < MIN_POINTS:
        return Figure("Fig. 3", title, why=f"{len(names)} faces of one person are too few")
    spots = TSNE(perplexity=min(20, (len(names) - 1) / 3), init="pca", random_state=0).fit_transform(features)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for colour, name in zip(TSNE_COLOURS, dict.fromkeys(names), strict=False):
            of = [i for i, other in enumerate(names) if other == name]
            axes.scatter(*spots[of].T, s=22, color=colour, label=name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8.5)

    charts.png(draw, (6.4, 4.0), directory / "alike.png")
    caption = "Features of Comp-GAN-Cls, from scratch; the expressions are those whose means lie nearest together."
    return Figure("Fig. 3", title, caption, {"alike.png": ""})


def _confusions(evidence: Evidence, directory: Path) -> list[Figure]:
    """Figs. 8 and 9: what Comp-GAN-Cls reads, from scratch and pre-trained; and the same on the data set itself."""
    made, figures = evidence.reproduction, []
    wanted = {f"Fig. {8 if number == 2 else 9}": paper().supervised[number].data for number in paper().supervised}
    places = {name: (of.upper(), made.others.get(of)) for name, of in wanted.items()}
    if made.supervised:
        places["Like Figs. 8 and 9"] = (made.dataset.manifest.name, made.dataset)
    for name, (of, dataset) in places.items():
        title = f"Confusion of Comp-GAN-Cls on {of}, from scratch and pre-trained"
        runs = evidence.supervised(dataset) if dataset else {}
        shown = {ROWS[row]: next(iter(runs[row].values())) for row in ("scratch", "pretrained") if row in runs}
        if not shown:
            why = "has not run: ask for Tables 2 and 3" if dataset else f"{of} was not imported"
            figures.append(Figure(name, title, why=why))
            continue
        matrices = {row: confusions(evidence.artifacts, record)[0] for row, record in shown.items()}
        labels = max(len(matrix.labels) for matrix in matrices.values())
        file = f"confusion-{of.lower()}.png"
        charts.png(_matrices(matrices), (0.8 + 4.6 * len(matrices), 1.2 + max(3.4, 0.2 * labels)), directory / file)
        figures.append(Figure(name, title, "Row: truth; column: what was read; in percent of the row.", {file: ""}))
    return figures


def _matrices(matrices: Mapping[str, Confusion]) -> charts.Draw:
    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
            shares = 100 * np.array(matrix.shares)
            axes.imshow(shares, cmap="Greens", vmin=0, vmax=100)
            axes.set_xticks(range(len(matrix.labels)), matrix.labels, rotation=90)
            axes.set_yticks(range(len(matrix.labels)), matrix.labels)
            if len(matrix.labels) <= MATRIX_NUMBERS:
                for (row, column), share in np.ndenumerate(shares):
                    ink = charts.PAPER if share > 60 else charts.INK
                    axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=7)
            axes.set_title(title, loc="left", color=charts.INK)
            axes.grid(visible=False)

    return draw


def _first_drawn(evidence: Evidence) -> Study | None:
    studies = evidence.reproduction.studies.values()
    return next((study for study in studies if "pictures" in evidence.named(study)), None)


def _sheets(
    evidence: Evidence,
    directory: Path,
    name: str,
    title: str,
    records: Mapping[str, Record],
    stages: Sequence[str],
) -> Figure:
    """The grids that stages have drawn."""
    files = {}
    for stage in (stage for stage in stages if stage in records):
        maker = MAKERS[stage.replace("pictures", "quality")]
        file = f"faces-{maker.lower().replace('/', '')}.png"
        shutil.copyfile(evidence.artifacts.fetch(records[stage]) / "faces.png", directory / file)
        files[file] = maker
    caption = "Columns with a green head are synthesized; beside each its reference and the truth."
    return Figure(name, title, caption if files else "", files, "" if files else "no rival has been trained")


def _preservation(evidence: Evidence, directory: Path, records: Mapping[str, Record], task: str) -> list[Figure]:
    """Figs. 13 to 15: what the judge, and the classifier that supervised Comp-GAN, read in edited faces."""
    read = {
        title: json.loads(evidence.artifacts.read(records[stage], "preservation.json"))
        for stage, title in MAKERS.items()
        if stage in records
    }
    if not read:
        return [Figure("Figs. 13 to 15", "What a judge reads in edited faces", why="the stage quality has not run yet")]
    shown = {
        "Fig. 13": ("expression", "E", "by_expression"),
        "Fig. 14": ("pose", "P", "by_pose"),
        "Fig. 15": ("identity", "E", "by_expression"),
    }
    figures = []
    for name, (what, edit, by) in shown.items():
        file = f"preserved-{what}.png"
        first = next(iter(read.values()))[edit]["judge"][what][by]
        categories = [*first][:SHOWN_CATEGORIES]
        shares = {
            reader: {
                title: [of[edit][reader][what][by].get(c, np.nan) for c in categories] for title, of in read.items()
            }
            for reader in ("judge", "f_cls")
        }
        charts.png(_dots(shares, categories), (9.0, 1.6 + 0.34 * len(categories)), directory / file)
        means = ", ".join(f"{title} {of[edit]['judge'][what]['all']:.0f}" for title, of in read.items())
        edits = "edits of the pose" if edit == "P" else "edits of the expression"
        caption = (
            f"Percent of {edits} in {task} whose {what} is read as intended, by the judge, which never supervised a "
            f"generator; over all: {means}. Right: read by the classifier that supervised Comp-GAN, as in the paper."
        )
        figures.append(Figure(name, f"How often the intended {what} is read", caption, {file: ""}))
    return figures


def _dots(shares: Mapping[str, Mapping[str, Sequence[float]]], categories: Sequence[str]) -> charts.Draw:
    """Two panels, a line for each category and a mark for each maker."""
    titles = {"judge": "read by the judge", "f_cls": "read by the classifier"}

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(shares), sharey=True)
        for axes, (reader, of_makers) in zip(panels, shares.items(), strict=True):
            for i, (mark, (maker, values)) in enumerate(zip(MARKS, of_makers.items(), strict=False)):
                ours = maker == "Comp-GAN"
                apart = 0.13 * (i - (len(of_makers) - 1) / 2)  # or equal shares would hide each other
                axes.plot(
                    values,
                    np.arange(len(categories)) + apart,
                    mark,
                    color=charts.ACCENT if ours else charts.MUTED,
                    markerfacecolor=charts.ACCENT if ours else "none",
                    markersize=7 if ours else 5.5,
                    label=maker,
                    zorder=3 if ours else 2,
                )
            axes.set_title(titles[reader], loc="left", color=charts.INK)
            axes.set_xlim(-3, 103)
            axes.set_ylim(len(categories) - 0.5, -0.5)
            axes.set_yticks(range(len(categories)), categories)
            axes.set_xlabel("percent")
            axes.grid(axis="x")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8.5)

    return draw


def _ablations(evidence: Evidence, directory: Path) -> Figure:
    title, files = "Comp-GAN without each of its losses, and with one generator", {}
    for what, study in evidence.reproduction.ablated.items():
        record = evidence.named(study).get("pictures")
        if record:
            file = f"{what.replace(' ', '-')}.png"
            shutil.copyfile(evidence.artifacts.fetch(record) / "faces.png", directory / file)
            files[file] = what[0].upper() + what[1:]
    why = "" if files else "each needs a training of its own: ask for them with --ablations"
    caption = "All edit the faces of Fig. 11, after the same references." if files else ""
    return Figure("Fig. 16", title, caption, files, why)


def _by_shots(evidence: Evidence, directory: Path) -> Figure:
    """Fig. 17: faces of a novel category that G(Exp), or G(Pose), makes from 1, 3 and 5 shots."""
    title = "Faces of one novel category, from 1, 3 and 5 shots"
    for task, kind, attribute in (("ER-FE", "exp", "expression"), ("ER-FP", "pose", "pose")):
        rows, captions, category = [], [], ""
        for shots in SHOWN_SHOTS:
            study = evidence.study(task, shots)
            record = evidence.named(study).get(f"synthesis {kind} #0") if study else None
            if record:
                faces = Faces.open(evidence.artifacts.fetch(record))
                names = faces.labels.named(attribute)  # type: ignore[arg-type]
                category = category or names[0]
                of = np.flatnonzero(np.array(names, dtype=object) == category)[:SHOWN_FACES]
                rows.append([*faces.images(of)])
                captions.append([f"{shots} shot{'s' * (shots > 1)}"] * len(of))
        if len(rows) > 1 and len({len(row) for row in rows}) == 1:
            face_grid(rows, [""] * len(rows[0]), captions, [True] * len(rows[0]), directory / "shots.png")
            return Figure("Fig. 17", title, f"{task}, the novel {attribute} {category!r}.", {"shots.png": ""})
    return Figure("Fig. 17", title, why="Table 6 has not run yet on ER-FE or ER-FP")


def _identities(evidence: Evidence, directory: Path, records: Mapping[str, Record]) -> Figure:
    title = "Features of nine faces and of their edits, by t-SNE"
    found, why = identities(evidence.artifacts, records)
    if found is None:
        return Figure("Fig. 18", title, why=why)

    def draw(figure: Any) -> None:
        for axes, kind in zip(figure.subplots(1, 2), ("G(Pose)", "G(Exp)"), strict=True):
            for person in range(found["people"]):
                colour = TSNE_COLOURS[person % len(TSNE_COLOURS)]
                for of, mark, size in ((kind, ".", 18), ("source", "*", 150)):
                    spots = [(x, y) for k, p, x, y in found["points"] if (k, p) == (of, person)]
                    axes.scatter(*zip(*spots, strict=True), s=size, marker=mark, color=colour)
            axes.set_title(f"edited by {kind}", loc="left", color=charts.INK)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)

    charts.png(draw, (9.0, 4.4), directory / "identities.png")
    caption = "Stars are faces, dots their edits, a colour is a person; features of the classifier."
    return Figure("Fig. 18", title, caption, {"identities.png": ""})
