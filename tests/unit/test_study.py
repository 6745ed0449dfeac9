"""Which stages a study has, what they share, and what would run. Nothing is computed here."""

import pytest

from compgan_core.data.shards import Manifest
from compgan_core.errors import ConfigurationError, DataError
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.cli.train import fewer_than
from orchestrator.datasets import Dataset
from orchestrator.study import BESIDE, study_of


def dataset(poses=("front", "left"), expressions=("joy", "neutral", "sad")):
    manifest = Manifest(
        name="faces", format="x", read=4, kept=4, quarantined=(), duplicates=(), excluded={}, identities=("a", "b"),
        poses=poses, expressions=expressions, digest="d",
    )  # fmt: skip
    counts = {"identity": {"a": 2, "b": 2}, "pose": {"left": 9}, "expression": dict.fromkeys(expressions, 9)}
    return Dataset(fingerprint="0" * 20, manifest=manifest, counts=counts)


def study(task="ER-FE", shots=5, seed=0, measure="evaluate", beside=BESIDE, **overrides):
    values = {k.replace("__", "."): v for k, v in overrides.items()}
    return study_of(dataset(), "tiny", task, shots, seed, values, measure=measure, beside=beside)


def changed(a, b):
    """The kinds of stages of `a` that `b` cannot take over."""
    theirs = {stage.fingerprint for stage in b.stages}
    return {stage.kind for stage in a.stages if stage.fingerprint not in theirs}


TUNED = {"finetune", "head", "evaluate"}
GENERATED = {"compgan", "quality", "fidelity", "pictures", "synthesis"} | TUNED


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"lambda__exp": "3"}, GENERATED),
        ({"mu__con": "3"}, GENERATED),
        ({"compgan__schedule__steps": "3"}, GENERATED),
        ({"synth__count": "3"}, TUNED),
        ({"finetune__novel_share": "0.1"}, TUNED),
        ({"head__dropout": "0.1"}, {"head", "evaluate"}),
        ({"judge__edits": "3"}, {"judge", "quality", "fidelity"}),
        ({"shots": "1"}, {"synthesis", "fidelity"} | TUNED),
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
    assert {s.kind for s in three.stages if s.label.endswith(("#1", "#2"))} == {"synthesis", "fidelity"} | TUNED


def test_zero_shot_shares_its_generators_with_few_shot():
    assert changed(study("ER-ZP"), study("ER-FP")) == {"synthesis", "fidelity"} | TUNED


def test_the_seed_changes_everything_but_the_faces():
    a, b = study(seed=0), study(seed=1)
    assert changed(a, b) == {stage.kind for stage in a.stages} - {"faces"}
    assert "faces" in changed(study(seed=0, faces__max_expressions="2"), study(seed=1, faces__max_expressions="2"))


def test_only_the_size_of_the_stored_faces_decides_the_tensor_cache():
    assert "faces" not in changed(study(faces__size="16"), study())
    assert "faces" in changed(study(faces__stored_size="40"), study())


def test_the_tensor_cache_is_not_made_by_training_workers(artifacts):
    plan = study().plan(artifacts)
    assert set(plan.to_run) - set(plan.to_train) == {stage for stage in plan.to_run if stage.kind == "faces"}


def test_comp_gan_and_both_generators_share_their_fine_tuning():
    stages = study(variants='["both","compgan"]').stages
    assert [s.kind for s in stages].count("finetune") == 1


def test_measured_on_validation_rows_only_the_last_stages_differ():
    test, validation = study(), study(measure="validate")
    assert changed(test, validation) == {"evaluate"}
    assert changed(validation, test) == {"validate"}
    assert len(validation.stages) == len(test.stages)


@pytest.mark.parametrize(
    ("override", "argument"),
    [({"shots": "2"}, "shots_per_category"), ({"shots_per": "category_x_expression"}, "shots_per")],
)
def test_the_shots_decide_the_validation_rows(override, argument):
    def recipes(**settings):
        stages = study(measure="validate", variants='["plain"]', **settings).stages
        return [stage.recipe for stage in stages if stage.kind == "validate"]

    (before,), (after,) = recipes(), recipes(**override)
    assert {name for name in before if before[name] != after[name]} == {argument}
    assert [recipe["draw"] for recipe in recipes(draws="3")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [({"variants": '["oracle"]'}, "'oracle' trains on"), ({"split__validation_fraction": "0"}, "set it above 0")],
)
def test_what_validation_cannot_tell_is_refused_before_anything_runs(override, sentence):
    study(**override)
    with pytest.raises(ConfigurationError, match=sentence):
        study(measure="validate", **override)


def test_with_nothing_beside_the_table_nothing_is_judged_or_drawn_and_only_what_results_need_is_left():
    assert changed(study(), study(beside=())) == {"quality", "fidelity", "pictures", "judge"}
    bare = study(beside=(), variants='["plain","degraded"]')
    assert {s.kind for s in study(beside=()).stages} - {s.kind for s in bare.stages} == {"compgan", "head"}


def test_without_an_image_added_every_variant_is_the_plain_one(artifacts):
    none = study(beside=(), synth__count="0", synth__pool="0", variants='["plain","degraded","exp","compgan"]')
    assert not [s for s in none.stages if s.kind == "synthesis"]
    assert [s.name for s in none.stages if s.kind == "finetune"] == ["finetune plain #0"]
    rows = {s.label: s.fingerprint for s in none.stages if s.kind == "evaluate"}
    assert rows["plain #0"] == rows["degraded #0"] == rows["exp #0"] != rows["compgan #0"]
    assert rows["plain #0"] in {s.fingerprint for s in study().stages}
    assert [s.kind for s in none.plan(artifacts).to_run].count("evaluate") == 2


def test_inputs_come_before_what_needs_them():
    seen = set()
    for stage in study(draws="2").stages:
        assert all(i.fingerprint in seen for i in stage.stage_inputs())
        seen.add(stage.fingerprint)


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))


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


RIVALS = '["plain","attgan","pix2pix"]'


def test_a_rivals_settings_change_its_own_stages_and_no_others():
    before, after = study(variants=RIVALS), study(variants=RIVALS, rivals__attgan__n_d="3")
    kept = {s.fingerprint for s in after.stages}
    assert {s.name for s in before.stages if s.fingerprint not in kept} == {
        "rival attgan", "quality attgan", "pictures attgan", "synthesis attgan-pose #0", "synthesis attgan-exp #0",
        "fidelity attgan-pose #0", "fidelity attgan-exp #0",
        "finetune attgan-pose+attgan-exp #0", "evaluate attgan #0",
    }  # fmt: skip


def test_rivals_edit_the_faces_that_comp_gan_edits_and_need_neither_it_nor_f_cls():
    stages = {s.name: s for s in study(variants='["both","vaegan"]').stages}
    ours, theirs = (stages[f"synthesis {kind} #0"].recipe for kind in ("exp", "vaegan-exp"))
    assert {name for name in ours if ours[name] != theirs[name]} == {"generator"}
    assert stages["rival vaegan"].inputs.keys() == {"faces", "split"}
    assert not {"rival", "attgan"} & {s.kind for s in study().stages}


def test_workers_that_a_batch_does_not_divide_over_are_refused_before_anything_runs(artifacts):
    plan = study(compgan__schedule__batch="12").plan(artifacts)
    plan.check_workers([1, 2, 4])
    with pytest.raises(ConfigurationError, match="pretrain trains on batches of 64.* 3 workers: use 1, 2, 4, 8, 16"):
        plan.check_workers([3])
    with pytest.raises(ConfigurationError, match="compgan trains on batches of 12.* 8 workers: use 1, 2, 3, 4, 6, 12,"):
        plan.check_workers([8])


def test_fewer_workers_are_those_over_which_every_batch_divides(artifacts):
    plan = study(compgan__schedule__batch="16").plan(artifacts)
    assert fewer_than(8, None, plan) == fewer_than(8, 8, plan) == ()
    assert fewer_than(8, 1, plan) == (1, 2, 4)
    with pytest.raises(ConfigurationError, match="--min-workers 9 is more than --workers 8"):
        fewer_than(8, 9, plan)
    with pytest.raises(ConfigurationError, match="divide over none of 5 to 7"):
        fewer_than(8, 5, plan)
