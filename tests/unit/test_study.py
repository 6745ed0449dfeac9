"""Which stages a study has, what they share, and what would run. Nothing is computed here."""

import pytest

from compgan_core.data.shards import Manifest
from compgan_core.errors import DataError
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.store import open_store
from orchestrator.datasets import Dataset
from orchestrator.study import study_of


def dataset(poses=("front", "left"), expressions=("joy", "neutral", "sad")):
    manifest = Manifest(
        name="faces", format="x", read=4, kept=4, quarantined=(), duplicates=(), excluded={}, identities=("a", "b"),
        poses=poses, expressions=expressions, files=(), digest="d",
    )  # fmt: skip
    return Dataset(fingerprint="0" * 20, manifest=manifest, faces_by_pose={}, faces_by_expression={})


def study(task="ER-FE", shots=5, seed=0, **overrides):
    return study_of(dataset(), "tiny", task, shots, seed, {k.replace("__", "."): v for k, v in overrides.items()})


def changed(a, b):
    """The kinds of stages of `a` that `b` cannot take over."""
    theirs = {stage.fingerprint for stage in b.stages}
    return {stage.kind for stage in a.stages if stage.fingerprint not in theirs}


TUNED = {"finetune", "combine", "evaluate"}
GENERATED = {"compgan", "quality", "pictures", "synthesis"} | TUNED


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"lambda__exp": "3"}, GENERATED),
        ({"mu__con": "3"}, GENERATED),
        ({"compgan__schedule__steps": "3"}, GENERATED),
        ({"synth__count": "3"}, TUNED),
        ({"finetune__novel_share": "0.1"}, TUNED),
        ({"combine__dropout": "0.1"}, {"combine", "evaluate"}),
        ({"judge__edits": "3"}, {"judge", "quality"}),
        ({"shots": "1"}, {"synthesis"} | TUNED),
    ],
)
def test_a_setting_changes_the_stages_that_depend_on_it_and_no_others(override, expected):
    assert changed(study(**override), study()) == expected


def test_the_rows_that_need_no_generator_survive_another_generator():
    names = {s.name for s in study().stages} - {s.name for s in study().stages if s.kind in ("compgan",)}
    other = {s.fingerprint for s in study(lambda__exp="3").stages}
    kept = {s.name for s in study().stages if s.fingerprint in other}
    assert {"evaluate plain #0", "evaluate degraded #0", "synthesis degraded #0"} <= kept & names


def test_smaller_counts_are_a_prefix_of_one_pool():
    pools = {s.fingerprint for s in study(synth__count="10").stages if s.kind == "synthesis"}
    assert pools == {s.fingerprint for s in study(synth__count="50").stages if s.kind == "synthesis"}


def test_draws_of_the_shots_share_everything_up_to_them():
    one, three = study(), study(draws="3")
    assert {s.fingerprint for s in one.stages} < {s.fingerprint for s in three.stages}
    assert {s.kind for s in three.stages if s.label.endswith(("#1", "#2"))} == {"synthesis"} | TUNED


def test_zero_shot_shares_its_generators_with_few_shot():
    assert changed(study("ER-ZP"), study("ER-FP")) == {"synthesis"} | TUNED


def test_the_seed_changes_everything():
    a, b = study(seed=0), study(seed=1)
    assert {s.fingerprint for s in a.stages}.isdisjoint(s.fingerprint for s in b.stages)


def test_comp_gan_and_both_generators_share_their_fine_tuning():
    stages = study(variants='["both","compgan"]').stages
    assert [s.kind for s in stages].count("finetune") == 1


def test_inputs_come_before_what_needs_them():
    seen = set()
    for stage in study(draws="2").stages:
        assert all(i.fingerprint in seen for i in stage.stage_inputs())
        seen.add(stage.fingerprint)


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(open_store(tmp_path / "store"), tmp_path / "cache")


def record(artifacts, tmp_path, stage):
    empty = tmp_path / "empty"
    empty.mkdir(exist_ok=True)
    artifacts.publish(stage.kind, stage.fingerprint, empty, recipe=stage.recipe, inputs={}, metrics={}, seconds=0)


def test_a_new_study_runs_all_and_touches_nothing(artifacts, tmp_path):
    plan = study().plan(artifacts)
    assert {step.state for step in plan.steps} == {"run"}
    assert not list((tmp_path / "store").rglob("*.json"))


def test_what_is_recorded_is_not_run_and_what_only_it_needs_neither(artifacts, tmp_path):
    wanted = study(variants='["plain"]')
    by_name = {s.name: s for s in wanted.stages}
    for name in ("classifier", "evaluate plain #0", "quality"):
        record(artifacts, tmp_path, by_name[name])
    states = {step.stage.name: step.state for step in wanted.plan(artifacts).steps}
    assert states["classifier"] == states["quality"] == "cached"
    assert states["finetune plain #0"] == states["judge"] == "not needed"
    assert states["compgan"] == states["pictures"] == states["pretrain"] == "run"  # the pictures show its curve


def test_the_plan_says_who_needs_a_stage(artifacts):
    why = {step.stage.name: step.why for step in study().plan(artifacts).steps}
    assert (why["faces"], why["quality"]) == ("needed by split", "a result")


@pytest.mark.parametrize("lacking", [{"poses": ("front",)}, {"expressions": ("joy",)}])
def test_data_with_one_pose_or_expression_is_refused_before_anything_runs(lacking):
    with pytest.raises(DataError, match="at least two"):
        study_of(dataset(**lacking), "tiny", "ER-FE", 5, 0, {})
