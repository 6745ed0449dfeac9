"""A report from a reproduction and the store, whether everything has run or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.reproduce.evidence import Evidence
from orchestrator.reproduce.figures import figures_of
from orchestrator.reproduce.generated import generated_tables
from orchestrator.reproduce.report import Report
from orchestrator.reproduce.reproduction import Reproduction
from orchestrator.reproduce.tables import findings_of, tables_of


def assemble(
    reproduction: Reproduction, artifacts: Artifacts, failures: Mapping[str, str], command: str, directory: Path
) -> Report:
    """Read the records, and draw the figures into `directory`. failures: why a study of `everything` did not end."""
    directory.mkdir(parents=True, exist_ok=True)
    evidence = Evidence(reproduction, artifacts)
    manifest = reproduction.dataset.manifest
    return Report(
        title=f"Comp-GAN on {manifest.name}, preset {reproduction.preset}",
        command=command,
        store=artifacts.store.url,
        facts=(*_facts(reproduction), *(f"{name} did not end: {why}" for name, why in failures.items())),
        tables=(*tables_of(evidence), *generated_tables(evidence)),
        findings=tuple(findings_of(evidence)),
        figures=tuple(figures_of(evidence, directory)),
    )


def _facts(made: Reproduction) -> list[str]:
    manifest, study = made.dataset.manifest, next(iter(made.studies.values()), None)
    found = [
        f"{manifest.kept} faces: {len(manifest.identities)} identities, {len(manifest.poses)} poses, "
        f"{len(manifest.expressions)} expressions. The paper's figures are on F2ED (219,719 faces, 119 identities, 54 "
        "expressions), so only the direction of a difference can be compared."
    ]
    if study:
        r = study.recipe
        seeds = len(made.seeds)
        each = "each " if seeds > 1 else ""
        found.append(
            f"{seeds} seed{'s' * (seeds > 1)}, {each}with a split and generators of its own; {r.draws} "
            f"draw{'s' * (r.draws > 1)} of the shots a seed and {r.tunings} fine-tuning{'s' * (r.tunings > 1)} a draw. "
            + (
                "Intervals are over the seeds' means."
                if seeds > 1
                else "Intervals are over the draws' means, of one split and one training of each generator."
                if r.draws > 1
                else "With one draw there is no interval, and claims are decided over test images alone."
            )
        )
    return found
