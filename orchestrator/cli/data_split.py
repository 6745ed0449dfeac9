"""`orch data split`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DEFAULT_STORE, Json, Overrides, Preset, Seed, Shots, Store, open_artifacts, pairs
from orchestrator.cli.output import Printer

if TYPE_CHECKING:
    from orchestrator.splits_report import SupervisedReport, TaskReport


def split(
    name: Annotated[str, typer.Argument(help="An imported dataset.")],
    task: Annotated[str | None, typer.Option("--task", help="The recognition task, e.g. ER-FE.")] = None,
    supervised: Annotated[
        str | None,
        typer.Option(
            "--supervised",
            help="Instead of a task: partition (the source's own, as of FER2013), random, jaffe, f2ed or celeba.",
        ),
    ] = None,
    shots: Shots = 1,
    draw: Annotated[int, typer.Option("--draw", min=0, help="Which draw of the shots.")] = 0,
    preset: Preset = "paper",
    seed: Seed = 0,
    overrides: Overrides = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show which faces would train and which would test, counted, and prove it. Stores nothing.

    The options are those of `orch train`, and give the faces that it would use; --preset f2ed has the counts of the
    paper. A supervised split has fields of its own for --set: test, validation, of, group_by_sequence.
    """
    from compgan_core.errors import ConfigurationError
    from orchestrator.datasets import find_dataset
    from orchestrator.splits_report import report_supervised, report_task

    printer, artifacts, chosen = Printer(json), open_artifacts(store), pairs("--set", overrides)
    if (task is None) == (supervised is None):
        raise ConfigurationError("say which split to make: with --task ER-FE, for example, or with --supervised random")
    dataset = find_dataset(artifacts.store, name)
    report: TaskReport | SupervisedReport
    if task is not None:
        report = report_task(artifacts, dataset, preset, task, shots, seed, draw, chosen)
        title, claims = _task_title(report, name), [*_task_claims(report)]
    else:
        assert supervised is not None
        report = report_supervised(artifacts, dataset, supervised, seed, chosen)
        title, claims = f"{supervised} split of {name}, seed {report.recipe.seed}", []
    _tables(printer, title, report)
    for line in (*claims, *_claims(report)):
        printer.note(line)
    printer.facts({"name": name} | report.model_dump())


def _tables(printer: Printer, title: str, report: TaskReport | SupervisedReport) -> None:
    proof = report.proof
    rows = []
    for category in sorted({c for role in proof.roles.values() for c in role.by_category}):
        counts = dict.fromkeys(("train", "validation", "test", "unused"), 0)
        for name, role in proof.roles.items():
            column = next(use for use in counts if use in name)
            counts[column] += role.by_category.get(category, 0)
        rows.append((category, "novel" if category in proof.novel_categories else "", *counts.values()))
    printer.table((proof.counted_by, "", "train", "validation", "test", "unused"), rows)
    printer.table(
        ("role", "faces", "identities", "poses", "expressions", "off balance by"),
        [(name, r.faces, *r.distinct.values(), max(r.imbalance.values())) for name, r in proof.roles.items()],
        title=title,
    )


def _task_title(report: TaskReport, name: str) -> str:
    shots = f"; shots: {report.shots} per {report.shots_per}, draw {report.draw}" if report.shots else ""
    return f"{report.recipe.task} on {name}, seed {report.recipe.seed}{shots}"


def _task_claims(report: TaskReport) -> Iterator[str]:
    proof, by = report.proof, report.proof.counted_by
    if not proof.novel_categories:
        yield "proved: every identity, pose and expression trains; none is novel"
        return
    yield f"novel {by}: {', '.join(proof.novel_categories)}"
    yield f"proved: every other {by} trains, and every novel {by} is tested and is in no base role"
    if report.shots:
        novel = proof.roles["novel_train"].faces
        yield f"proved: of the novel faces, exactly {report.shots} per {report.shots_per} train, {novel} in all"
    else:
        yield "proved: no novel face trains"


def _claims(report: TaskReport | SupervisedReport) -> Iterator[str]:
    proof, grouped = report.proof, report.recipe.group_by_sequence
    total = sum(role.faces for role in proof.roles.values())
    yield f"proved: no face has two roles, and together they hold all {total} faces that have the labels it takes"
    if proof.without_role:
        yield f"without a role, for want of a label: {proof.without_role} faces"
    used = {name: role for name, role in proof.roles.items() if name != "novel_unused"}
    worst, where = max((off, f"{a} in {name}") for name, role in used.items() for a, off in role.imbalance.items())
    within = "within one" if worst < 1 else f"not within one, see {where}"
    yield f"balance: a category is off its share of a role by {worst:.3g} faces at most, {within}"
    yield f"chance: 1/{proof.classes} = {100 / proof.classes:.2f}%"
    if proof.untrained:
        yield f"warning: {len(proof.untrained)} classes are tested and never train, such as {proof.untrained[0]}"
    if proof.leaked:
        tested = sum(role.faces for name, role in proof.roles.items() if name.startswith("test"))
        yield f"warning: {proof.leaked} of {tested} test faces are frames of recordings that also train" + (
            "" if grouped else "; group_by_sequence=true keeps recordings together"
        )
    elif proof.recordings:
        yield f"proved: none of {proof.recordings} recordings both trains and tests"
    else:
        yield "not known: whether frames of one recording train and test, as the data names no recordings"
