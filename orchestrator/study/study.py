"""A study, top to bottom: which stages there are, what each needs, which must run, and running them.

dataset -> faces -> split -> pretrain -> classifier -> compgan -> synthesis -> finetune -> evaluate, with the judge
and the pictures beside it. A stage is a function of `compgan_core.stages` with arguments and inputs; the hash of those
is its fingerprint, and a record under that fingerprint means that it need never run again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Any, Literal, get_args

from compgan_core.data.labels import choose_expressions
from compgan_core.data.splits import FEW_SHOT_TASKS, NOVEL_ATTRIBUTE, SplitRecipe, find_novel_pose
from compgan_core.errors import ConfigurationError, DataError
from compgan_core.recipe import Recipe, make_recipe
from compgan_core.synthesize import mirror_of
from compgan_core.variants import KINDS, REAL, RIVALS, VARIANTS
from compgan_core.views import turned_to
from orchestrator.artifacts.artifacts import Artifacts, Record
from orchestrator.artifacts.fingerprint import fingerprint
from orchestrator.datasets import Dataset
from orchestrator.ingest import FACES, faces_recipe
from orchestrator.study.stage import Plan, Stage, Step

Measure = Literal["evaluate", "validate"]

Beside = Literal["quality", "fidelity", "pictures"]
"""What can be a result beside the table: what the judge reads in edited faces, what it reads in those that were
synthesized to train on, and pictures."""
BESIDE: tuple[Beside, ...] = get_args(Beside)
GRID_ROWS = 8
EDITS = {"P": "pose edits", "E": "expression edits", "PE": "pose, then expression"}
"""What the judge reads: names in the record -> titles."""


@dataclass(frozen=True)
class Study:
    """One recipe on one data set."""

    recipe: Recipe
    dataset: Dataset
    measure: Measure = "evaluate"
    """The last stage of each variant: reads test rows, or validation rows and no test row at all."""
    beside: Sequence[Beside] = BESIDE

    @cached_property
    def faces(self) -> Stage:
        """The tensor cache."""
        r, names = self.recipe, self.dataset.manifest.expressions
        chosen = choose_expressions(names, r.faces.max_expressions, r.seed)
        some = chosen if len(chosen) < len(names) else ()
        return Stage(FACES, faces_recipe(r.faces.stored_size, some), {"dataset": self.dataset})

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All stages that the results need, each after its inputs. This is the pipeline."""
        r, size, seed = self.recipe, self.recipe.faces.size, self.recipe.seed
        network = {"network": r.network, "size": size, "seed": seed}
        faces = self.faces
        split = Stage("split", {"split": _shared_split(r.split)}, {"faces": faces})
        data = {"faces": faces, "split": split}
        pretrain = Stage("pretrain", {**network, "training": r.pretrain}, data)
        classifier = Stage("classifier", {**network, "training": r.classifier}, {**data, "pretrain": pretrain})
        compgan = Stage(
            "compgan",
            {**network, "compgan": r.compgan, "lambda_": r.lambda_, "mu": r.mu},
            {**data, "classifier": classifier},
        )
        judge = Stage("judge", {"judge": r.judge, "size": size, "seed": seed}, data)
        generator, readers = r.compgan.generator, {"classifier": classifier, "judge": judge}
        by_size = {"size": size, "seed": seed}
        quality = Stage(
            "quality",
            {**network, "generator": generator, "judge": r.judge},
            {**data, **readers, "compgan": compgan},
        )
        pictures = Stage(
            "pictures",
            {**by_size, "generator": generator, "rows": GRID_ROWS},
            {**data, "pretrain": pretrain, "classifier": classifier, "compgan": compgan},
        )
        makers, shown = {"compgan": compgan}, []
        for name in (name for name in RIVALS if name in r.variants):
            recipe = getattr(r.rivals, name)
            makers[name] = rival = Stage("rival", {"rival": recipe, "size": size, "seed": seed}, data, name)
            by, see = {**data, "rival": rival}, {**by_size, "generator": recipe}
            shown.append(Stage("quality", {**see, "network": r.network, "judge": r.judge}, {**by, **readers}, name))
            shown.append(Stage("pictures", {**see, "rows": GRID_ROWS}, by, name))
        rows = [row for draw in range(r.draws) for row in self._rows(data, classifier, makers, draw)]
        read = {"judge": r.judge.network, "size": size}
        for pool in (row for row in rows if row.kind == "synthesis"):
            shown.append(Stage("fidelity", read, {"faces": faces, "judge": judge, "synthesis": pool}, pool.label))
        everything = (faces, split, pretrain, classifier, *makers.values(), judge, quality, pictures, *rows, *shown)
        return _needed(everything, {self.measure, *self.beside})

    def _rows(self, data: dict[str, Stage], classifier: Stage, makers: dict[str, Stage], draw: int) -> list[Stage]:
        """Synthesis, fine-tuning and measuring of every variant for one draw of the shots."""
        r = self.recipe
        common: dict[str, Any] = {"size": r.faces.size, "seed": r.seed}
        few = {"shots_per_category": r.shots, "shots_per": r.shots_per}
        none = {"shots_per_category": 0, "shots_per": "category"}
        shots = (few if r.split.task in FEW_SHOT_TASKS else none) | {"draw": draw}
        # Adding no image is adding no kind: at count 0 the variants share the fine-tuning of the plain one.
        added_to = {name: VARIANTS[name].added if r.synth.count else () for name in r.variants}
        pools = {}
        for kind in dict.fromkeys(k for kinds in added_to.values() for k in kinds if k != REAL):
            maker = KINDS[kind].maker
            made_by = {"rival" if maker in RIVALS else maker: makers[maker]} if maker else {}
            arguments = {
                **common,
                **shots,
                "generator": getattr(r.rivals, maker) if maker in RIVALS else r.compgan.generator if maker else None,
                "kind": KINDS[kind].like or kind,
                "pool": max(r.synth.pool, r.synth.count),
            }
            pools[kind] = Stage("synthesis", arguments, {**data, **made_by}, f"{kind} #{draw}")
        stages = list(pools.values())
        common["network"] = r.network
        for name, tuning in product(r.variants, range(r.tunings)):
            kinds, view = added_to[name], VARIANTS[name].view
            run = f"#{draw}.{tuning}" if tuning else f"#{draw}"
            training = {
                **common,
                **shots,
                "tuning": tuning,
                "finetune": r.finetune,
                "added": kinds,
                "count": r.synth.count if kinds else 0,
            }
            added = {**data, **{f"synthesis-{kind}": pools[kind] for kind in kinds if kind in pools}}
            tuned_label = f"{'+'.join(kinds) or 'plain'} {run}"
            tuned = Stage("finetune", training, {**added, "classifier": classifier}, tuned_label)
            stages.append(tuned)
            counting: dict[str, Any] = {**common, "view": view, "generator": None, "head": None}
            counting |= shots if self.measure == "validate" else {}
            inputs = {**data, "finetune": tuned}
            if view != "plain":
                turned = {"view": view, "generator": r.compgan.generator, "head": r.head}
                by = {"finetune": tuned, "compgan": makers["compgan"]}
                head = Stage("head", {**training, **turned}, {**added, **by}, f"{name} {run}")
                stages.append(head)
                counting |= turned
                inputs |= {"compgan": makers["compgan"], "head": head}
            stages.append(Stage(self.measure, counting, inputs, f"{name} {run}"))
        return stages

    @property
    def titles(self) -> dict[str, str]:
        """The rows of the table: variant -> title."""
        return {variant: VARIANTS[variant].title for variant in self.recipe.variants}

    @property
    def description(self) -> str:
        r = self.recipe
        shots = f", {r.shots} shot{'s' * (r.shots > 1)}" if r.split.task in FEW_SHOT_TASKS else ""
        return f"{r.split.task}{shots} on {self.dataset.manifest.name}, preset {r.preset}, seed {r.seed}"

    def judged(self, records: Mapping[str, Record]) -> list[str]:
        """What the judge reads in edited faces, in sentences."""
        j = records["judge"].metrics
        lines = [
            f"judge on real faces: identity {j['real_identity']:.0f}%, pose {j['real_pose']:.0f}%, expression "
            f"{j['real_expression']:.0f}%; blurred: {j['blurred_identity']:.0f}%, {j['blurred_pose']:.0f}%, "
            f"{j['blurred_expression']:.0f}%"
        ]
        for stage, maker in {
            "quality": "",
            **{f"quality {rival}": f"{name} " for rival, name in RIVALS.items()},
        }.items():
            q = records[stage].metrics if stage in records else {}
            for name, title in EDITS.items() if q else ():
                read = (f"{what} {q[f'{name}_judge_{what}']:.0f}%" for what in ("identity", "pose", "expression"))
                l1 = f"L1 {q[f'{name}_l1']:.3f}, unedited {q[f'{name}_l1_of_source']:.3f}"
                lines.append(f"{maker}{title}: {', '.join(read)}; {l1}")
        for kind, about in KINDS.items():
            draws = [record.metrics for name, record in records.items() if name.startswith(f"fidelity {kind} #")]
            if draws:
                read = (f"{what} {fmean(d[what] for d in draws):.0f}%" for what in ("identity", "pose", "expression"))
                lines.append(f"synthesized, {about.title}: as labelled in {', '.join(read)}")
        return lines

    @property
    def name(self) -> str:
        """Names the Ray Train run: the same study resumes the same run."""
        return f"{self.recipe.split.task}-{fingerprint('study', 1, {}, {s.name: s.fingerprint for s in self.stages})}"

    def plan(self, artifacts: Artifacts, recorded: Container[str] | None = None) -> Plan:
        """What would run, what is cached, and why. Touches nothing.

        A stage runs when it has no record and either is a result itself or a stage that runs needs it.
        recorded: the fingerprints that have a record, if that is known.
        """
        if recorded is None:
            recorded = artifacts.recorded((stage.kind, stage.fingerprint) for stage in self.stages)
        inputs = {i.fingerprint for s in self.stages for i in s.stage_inputs()}
        wanted_by: dict[str, str] = {s.fingerprint: "a result" for s in self.stages if s.fingerprint not in inputs}
        steps = []
        for stage in reversed(self.stages):
            reason = wanted_by.get(stage.fingerprint)
            if stage.fingerprint in recorded:
                steps.append(Step(stage, "cached", "has a record"))
            elif reason is None:
                steps.append(Step(stage, "not needed", "everything that needs it is cached"))
            else:
                steps.append(Step(stage, "run", reason if reason == "a result" else f"needed by {reason}"))
                for needed in stage.stage_inputs():
                    wanted_by[needed.fingerprint] = stage.name
        return Plan(tuple(reversed(steps)))

    def records(self, artifacts: Artifacts) -> dict[str, Record]:
        """The records there are, by stage name."""
        found = {stage.name: artifacts.record(stage.kind, stage.fingerprint) for stage in self.stages}
        return {name: record for name, record in found.items() if record}


def study_of(
    dataset: Dataset,
    preset: str,
    task: str,
    shots: int,
    seed: int,
    overrides: Mapping[str, str],
    *,
    measure: Measure = "evaluate",
    beside: Sequence[Beside] = BESIDE,
) -> Study:
    """The study of a preset, a task and `key=value` overrides.

    Raises ConfigurationError for a wrong setting, DataError when the data has one pose or expression only.
    """
    recipe = make_recipe(preset, task, shots, seed, overrides)
    manifest = dataset.manifest
    for what, names in (("poses", manifest.poses), ("expressions", manifest.expressions)):
        if len(names) < 2:
            raise DataError(
                f"training needs at least two {what}, and {manifest.name!r} has {', '.join(names) or 'none'}: "
                f"import faces that are labelled with more {what}"
            )
    attribute = NOVEL_ATTRIBUTE[recipe.split.task]
    counts = dataset.counts[attribute] if attribute and recipe.split.task in FEW_SHOT_TASKS else {}
    if counts and recipe.shots > min(counts.values()):
        raise DataError(
            f"{recipe.shots} shots were asked for, but a category of {manifest.name!r} has only {min(counts.values())} "
            f"faces: use fewer"
        )
    _check_variants(recipe, manifest.poses)
    if measure == "validate":
        _check_validation(recipe)
    return Study(recipe, dataset, measure, beside)


def _check_variants(recipe: Recipe, poses: Sequence[str]) -> None:
    """Refuse now what a stage would refuse once everything is trained."""
    if "mirrored" in recipe.variants:
        of_pose = NOVEL_ATTRIBUTE[recipe.split.task] == "pose"
        novel = find_novel_pose(list(poses), recipe.split.novel_pose) if of_pose else ""
        if mirror_of(novel) not in set(poses) - {novel}:
            raise ConfigurationError(
                "the variant 'mirrored' needs a novel pose, and a base pose that is its mirror image, and "
                f"{recipe.split.task} on the poses {', '.join(poses)} has none: leave it out of variants"
            )
    for variant in recipe.variants:
        turned_to(VARIANTS[variant].view, tuple(poses))


def _check_validation(recipe: Recipe) -> None:
    """Refuse now what would fail, or mislead, once everything is trained."""
    if "oracle" in recipe.variants:
        raise ConfigurationError(
            "the variant 'oracle' trains on the novel faces that validation reads: leave it out of variants"
        )
    if not recipe.split.validation_fraction:
        raise ConfigurationError("split.validation_fraction=0 keeps no face to validate on: set it above 0, to 0.1 say")


def _shared_split(recipe: SplitRecipe) -> SplitRecipe:
    """A zero-shot task has the split of its few-shot twin, so that they share everything up to the shots."""
    twin = {"ER-ZID": "ER-FID", "ER-ZP": "ER-FP"}.get(recipe.task)
    return recipe.model_copy(update={"task": twin}) if twin else recipe


def _needed(stages: Iterable[Stage], results: Container[str]) -> tuple[Stage, ...]:
    """The stages of the kinds `results` and all that they need, in the same order, each name once."""
    wanted: set[str] = set()
    kept = []
    for stage in reversed({stage.name: stage for stage in stages}.values()):
        if stage.kind in results or stage.fingerprint in wanted:
            wanted |= {needed.fingerprint for needed in stage.stage_inputs()}
            kept.append(stage)
    return tuple(reversed(kept))
