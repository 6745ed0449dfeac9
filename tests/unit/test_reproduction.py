"""Which studies the paper's tables need, what they share, and what the data do not allow. Nothing is computed here."""

import json

import numpy as np
import pytest
from test_study import dataset

from compgan_core.errors import ConfigurationError
from compgan_core.losses import Weights
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.reproduce.evidence import Evidence
from orchestrator.reproduce.generated import generated_tables
from orchestrator.reproduce.paper import TASKS
from orchestrator.reproduce.reproduction import Key, make_reproduction
from orchestrator.reproduce.supervised import public_lightcnn
from orchestrator.reproduce.tables import findings_of
from orchestrator.study import SharedPlan, study_of

POSES = ("front", "half_left", "half_right")


def made(data=None, tables=(4, 5, 6, 7), tasks=TASKS, seeds=1, shots=1, overrides=None, **more):
    options = {"preset": more.pop("preset", "tiny"), "tables": tables, "tasks": tasks, "seeds": seeds, "shots": shots}
    return make_reproduction(data or dataset(POSES), **options, overrides=overrides or {}, **more)


def test_there_is_a_study_for_each_task_number_of_shots_and_seed_and_controls_are_in_every_one():
    found = made(seeds=2)
    shots = {key.task: [] for key in found.studies}
    for key in found.studies:
        shots[key.task] += [key.shots] * (key.seed == 0)
    few = {"ER-FID": [1], "ER-FP": [1, 3, 5], "ER-FE": [1, 3, 5]}  # of each person there are two faces
    assert shots == {task: few.get(task, [0]) for task in TASKS}
    assert "has only 2 faces" in found.missing(Key("ER-FID", 3, 0), "plain")
    for key, study in found.studies.items():
        controls = {"degraded", "mirrored", "oracle"} & set(study.recipe.variants)
        pose, novel = key.task in ("ER-FP", "ER-ZP"), key.task != "ER-SS"
        assert controls == {"degraded"} | ({"mirrored"} if pose else set()) | ({"oracle"} if novel else set())
        assert ("pictures" in study.beside) == (key.seed == 0) and {"quality", "fidelity"} <= {*study.beside}
    assert "attgan" in found.studies[Key("ER-FE", 1, 0)].recipe.variants
    assert "attgan" not in found.studies[Key("ER-FE", 3, 0)].recipe.variants


def test_every_stage_is_that_of_orch_train_so_a_reproduction_takes_over_what_there_is():
    settings = {"draws": "2", "tunings": "2"}
    ours = made(tables=(5,), tasks=("ER-FE",), shots=5, overrides=settings).studies[Key("ER-FE", 5, 0)]
    rows = json.dumps(["exp", "plain", "compgan"])
    theirs = study_of(dataset(POSES), "tiny", "ER-FE", 5, 0, settings | {"variants": rows})
    assert {s.fingerprint for s in theirs.stages} <= {s.fingerprint for s in ours.stages}


def test_generators_are_trained_once_for_all_shots_and_for_both_tasks_of_a_pair(tmp_path):
    found = made()
    artifacts = Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))
    plan = SharedPlan([*found.everything.values()], artifacts)
    kinds = [stage.kind for stage in plan.to_run.values()]
    assert (kinds.count("compgan"), kinds.count("rival"), kinds.count("judge")) == (4, 16, 4)
    assert plan.distinct == len(plan.to_run) < plan.separate


def test_what_the_data_do_not_allow_is_left_out_and_says_why():
    found = made(dataset(("bird", "half_left", "half_right")))
    assert "front" not in found.studies[Key("ER-SS", 0, 0)].recipe.variants
    assert "turned to the pose 'front'" in found.missing(Key("ER-SS", 0, 0), "front")
    assert found.missing(Key("ER-SS", 0, 0), "oracle") == "ER-SS has no novel category"
    assert found.missing(Key("ER-SS", 0, 0), "plain") == ""
    some = made(tasks=("ER-SS",))
    assert some.missing(Key("ER-FE", 1, 0), "plain") == "ER-FE was not asked for"


def test_an_ablation_leaves_one_loss_out_of_both_generators_and_shares_all_but_the_generators():
    found = made(tables=(5,), tasks=("ER-FE",), ablations=True)
    assert len(found.ablated) == len(Weights.model_fields) + 1
    whole = {stage.fingerprint for stage in found.studies[Key("ER-FE", 1, 0)].stages}
    study = found.ablated["without con loss"]
    assert (study.recipe.lambda_.con, study.recipe.mu.con, study.recipe.lambda_.exp) == (0, 0, 20)
    assert {s.kind for s in study.stages if s.fingerprint not in whole} == {"compgan", "quality", "pictures"}


def other(name, **more):
    made_of = dataset(**more)
    return made_of.model_copy(
        update={
            "fingerprint": name.ljust(20, "0"),
            "manifest": made_of.manifest.model_copy(update={"name": name, "format": name}),
        }
    )


def test_supervised_runs_have_the_papers_settings_and_start_from_what_they_should():
    others = {"fer2013": other("fer2013", poses=()), "jaffe": other("jaffe", poses=())}
    found = made(tables=(2, 3), others=others, before=other("celeba", expressions=()), preset="paper").supervised
    assert [*found] == [
        "pre-training on celeba, seed 0",
        "supervised on faces, seed 0",
        "supervised on fer2013, seed 0",
        "supervised on jaffe, seed 0",
    ]
    first, own, fer, jaffe = found.values()
    settings = [(s.training.optimizer.lr, s.training.schedule.batch, s.split.method) for s in (own, fer, jaffe)]
    assert settings == [(0.01, 128, "random"), (2e-3, 64, "partition"), (5e-4, 32, "one_each")]
    assert first.split.of == "identity" and first.training.heads.identity == 1 and not first.training.heads.expression
    starts = {s.dataset.manifest.name: s.rows["pretrained"].inputs["pretrained"] for s in (own, fer, jaffe)}
    assert starts["faces"].fingerprint == first.rows["scratch"].fingerprint
    assert starts["fer2013"].fingerprint == starts["jaffe"].fingerprint == own.rows["scratch"].fingerprint
    for study in found.values():
        names = [stage.fingerprint for stage in study.stages]
        assert all(
            names.index(i.fingerprint) < names.index(s.fingerprint) for s in study.stages for i in s.stage_inputs()
        )


def test_pre_training_on_attributes_has_a_tensor_cache_of_its_own_and_everything_else_stays():
    options = {"tables": (2,), "before": other("celeba", expressions=())}
    by_identity, by_attributes = (made(**options, attributes=a).supervised for a in (False, True))
    assert [*by_identity] == [*by_attributes]
    first, own = by_attributes["pre-training on celeba, seed 0"], by_attributes["supervised on faces, seed 0"]
    assert [(s.kind, s.recipe.get("attributes")) for s in first.stages] == [("faces", True), ("attributes", None)]
    assert own.rows["pretrained"].inputs["pretrained"].fingerprint == first.rows["scratch"].fingerprint
    same = by_identity["supervised on faces, seed 0"].rows
    changed = {name for name, stage in own.rows.items() if stage.fingerprint != same[name].fingerprint}
    assert changed == {"pretrained", "features"}


def test_what_the_judge_reads_is_compared_tuple_by_tuple(tmp_path):
    found, rng = made(tables=(4,), tasks=("ER-SS",)), np.random.default_rng(0)
    artifacts = Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))
    read = {}
    for stage in (s for s in found.studies[Key("ER-SS", 0, 0)].stages if s.kind == "quality"):
        names = [f"{edit}_{reader}" for edit in ("P", "E") for reader in ("judge", "f_cls")]
        read[stage.name] = {name: rng.random((400, 3)) < rng.random() for name in names}
        out = tmp_path / stage.fingerprint
        out.mkdir()
        np.savez(out / "readings.npz", **read[stage.name])
        artifacts.publish(stage.kind, stage.fingerprint, out, recipe={}, inputs={}, metrics={}, seconds=1.0)
    findings = [f for f in findings_of(Evidence(found, artifacts)) if f.by_measure]
    assert len(findings) == 3 * 4
    ours = read["quality"]
    for finding in findings:
        theirs = read[f"quality {finding.against}"]
        edits, what = {"13": ("E", 2), "14": ("P", 1), "15": ("PE", 0)}[finding.claim.said[-3:-1]]
        gain = np.mean([ours[f"{e}_judge"][:, what] - 1.0 * theirs[f"{e}_judge"][:, what] for e in edits], axis=0)
        compared = finding.by_measure["read by the judge"]
        assert compared.difference == pytest.approx(100 * gain.mean())
        half = 196 * gain.std() / 20
        assert compared.over_images == pytest.approx((100 * gain.mean() - half, 100 * gain.mean() + half), abs=0.6)


def test_tables_of_generated_faces_have_every_maker_and_ablation_over_the_seeds(tmp_path):
    found = made(tables=(5,), tasks=("ER-FP", "ER-ZP"), seeds=3, ablations=True)
    artifacts = Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    figures = [f"{e}_{of}" for e in "PE" for of in ("l1", "l1_of_source", "lpips_judge", "lpips_judge_of_source")]
    figures += [f"{e}_{of}" for e in "PE" for of in ("judge_identity", "judge_pose", "judge_expression", "fid_judge")]
    stages = {(key.seed, s.fingerprint): s for key, study in found.studies.items() for s in study.stages}
    stages |= {(9, s.fingerprint): s for study in found.ablated.values() for s in study.stages if s.kind == "quality"}
    for (seed, _), stage in stages.items():
        if stage.kind in ("quality", "fidelity"):
            metrics = dict.fromkeys([*figures, "identity", "pose", "expression"], 10.0 + seed)
            artifacts.publish(
                *(stage.kind, stage.fingerprint, tmp_path / "empty"), recipe={}, inputs={}, metrics=metrics, seconds=1.0
            )
    tables = {table.name: table for table in generated_tables(Evidence(found, artifacts))}
    assert [*tables] == [
        "Edited faces, ER-FP and ER-ZP",
        "Synthesized faces, ER-FP, 1 shot",
        "Synthesized faces, ER-ZP",
    ]
    rows = {row.title: row.cells for row in tables["Edited faces, ER-FP and ER-ZP"].rows}
    assert len(rows) == 2 * (2 + len(found.ablated)) + 1
    ours, ablated = rows["Comp-GAN, pose edits"], rows["Comp-GAN without con loss, expression edits"]
    assert [cell.spread.mean for cell in ours] == [11, 11, 11, 11 * 50, 11 * 100, 11]
    assert {cell.spread.units for cell in ours} == {3} and {cell.spread.units for cell in ablated} == {1}
    assert [cell.spread and cell.spread.mean for cell in rows["nothing edited, pose edits"]] == [
        None, None, None, 11 * 50, 11 * 100, None,
    ]  # fmt: skip
    assert {cell.why for cell in rows["real faces"][:3]} == {"has not run yet"}  # no judge was recorded
    made_of = [row.title for row in tables["Synthesized faces, ER-FP, 1 shot"].rows]
    assert made_of == ["G(Pose)", "G(Exp)", "degraded copies", "mirrored faces"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": (4, 9)}, "no table 9 of results: choose from 2, 3, 4, 5, 6, 7"),
        ({"tasks": ("ER-FX",)}, "no task 'ER-FX'"),
        ({"overrides": {"variants": "[]"}}, "leave --set variants out"),
        ({"tables": (2,), "attributes": True}, "--attributes needs a data set"),
        ({"overrides": {"no.key": "1"}}, "no key 'no.key'"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options, message):
    with pytest.raises(ConfigurationError, match=message):
        made(**options)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    artifacts = Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))
    with pytest.raises(ConfigurationError, match="neither a data set of this store nor a file"):
        public_lightcnn(artifacts, tmp_path / "absent.pth.tar", "tiny", {})
