"""Every row of Table 5 and every control, on all six tasks, at the smallest size: in one process, without Ray."""

import json

import pytest
from small_study import SETTINGS, import_faces

from compgan_core.variants import RIVALS, TABLE_4, TABLE_5, VARIANTS
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.datasets import find_dataset
from orchestrator.results import COLUMNS, table
from orchestrator.runtime.alone import AloneRuntime
from orchestrator.study import Worker, make_faces_of, study_of

TRAININGS = ("pretrain", "classifier", "finetune.training", "head")
FEW_STEPS = SETTINGS | {"compgan.schedule.steps": "2"} | {f"{name}.schedule.batch": "8" for name in TRAININGS}
FEW_STEPS |= {f"rivals.{name}.schedule.steps": "2" for name in RIVALS} | {"rivals.attgan.n_d": "1"}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    root = tmp_path_factory.mktemp("variants")
    import_faces(str(root / "store"), root / "cache")
    return Artifacts(open_store(root / "store"), NodeCache(root / "cache"))


@pytest.mark.integration
@pytest.mark.parametrize("task", ["ER-SS", "ER-FID", "ER-ZID", "ER-FP", "ER-ZP", "ER-FE"])
def test_every_row_of_the_table_runs(artifacts, task):
    rows = [*dict.fromkeys(TABLE_4 + TABLE_5), "degraded", "oracle"] + (
        ["mirrored"] if task in ("ER-FP", "ER-ZP") else []
    )
    settings = FEW_STEPS | {"variants": json.dumps(rows)}
    study = study_of(find_dataset(artifacts.store, "drawn"), "tiny", task, 1, 0, settings, extras=False)
    events = []
    plan = study.plan(artifacts)
    make_faces_of(study, plan, artifacts, events.append, alone=True)
    Worker(plan.to_train, artifacts)(AloneRuntime(artifacts.store, events.append, device="cpu"))
    found = {row.variant: row for row in table(study.titles, study.records(artifacts))}
    assert found.keys() == set(rows) <= VARIANTS.keys()
    columns = {"base", "pooled"} if task == "ER-SS" else COLUMNS.keys()
    assert all(row.means.keys() == columns for row in found.values())
    ran = {event["name"].split()[0] for event in events if event["kind"] == "stage" and event["state"] == "running"}
    if task in ("ER-ZID", "ER-ZP"):  # they take over what their few-shot twins trained
        assert not ran & {"pretrain", "classifier", "compgan", "rival"}
