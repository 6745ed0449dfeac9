"""Every row of Tables 4 and 5 on all six tasks, at the smallest size, and the report of them, from one command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import SCREENS, browser, looked_at
from PIL import Image
from small_study import SETTINGS, facts, import_faces, orch

from compgan_core.variants import RIVALS, TABLE_4, TABLE_5, VARIANTS
from orchestrator.artifacts.artifacts import open_artifacts
from orchestrator.datasets import import_dataset

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]
TASKS = ("ER-SS", "ER-FID", "ER-ZID", "ER-FP", "ER-ZP", "ER-FE")
TRAININGS = ("pretrain", "classifier", "finetune.training", "head")
FEW_STEPS = SETTINGS | {"compgan.schedule.steps": "2", "judge.training.schedule.batch": "8"}
FEW_STEPS |= {f"{name}.schedule.batch": "8" for name in TRAININGS}
FEW_STEPS |= {f"rivals.{name}.schedule.steps": "2" for name in RIVALS} | {"rivals.attgan.n_d": "1"}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    root = tmp_path_factory.mktemp("reproduce")
    import_faces(str(root / "store"), root / "cache")
    sets = [part for key, value in FEW_STEPS.items() for part in ("--set", f"{key}={value}")]
    options = ["reproduce", "--data", "drawn", "--tables", "4,5", "--seeds", "1", "--preset", "tiny", "--alone"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPGAN_CACHE", str(root / "cache"))
        yield [*options, "--store", str(root / "store"), "--report", str(root / "report"), *sets, "--json"]


@pytest.fixture(scope="module")
def done(command):
    return facts(orch(*command))


def test_every_row_of_tables_4_and_5_runs_on_all_six_tasks(done, command):
    found = {table["name"]: table for table in done["tables"]}
    for number, rows in ((4, TABLE_4), (5, TABLE_5)):
        table = found[f"Table {number}"]
        assert table["columns"] == list(TASKS)
        for variant in rows:
            assert None not in table["rows"][VARIANTS[variant].title]
    controls = {VARIANTS[name].title: name for name in ("degraded", "mirrored", "oracle")}
    for title, name in controls.items():
        there = [mean is not None for mean in found["Table 5"]["rows"][title]]
        pose = {"mirrored": ("ER-FP", "ER-ZP"), "oracle": TASKS[1:]}.get(name, TASKS)
        assert there == [task in pose for task in TASKS]
    assert [len(found[name]["columns"]) for name in ("ER-FE, 1 shot", "ER-ZP", "ER-SS")] == [5, 4, 2]
    names = ["Edited faces, " + tasks for tasks in ("ER-SS", "ER-FID and ER-ZID", "ER-FP and ER-ZP", "ER-FE")]
    for name in names:
        rows = found[name]["rows"]
        assert len(rows) == 2 * (len(RIVALS) + 2) + 1
        for title, cells in rows.items():
            blank = {"nothing": [0, 1, 2, 5], "real": [3, 4, 5]}.get(title.split()[0], [])
            assert [i for i, cell in enumerate(cells) if cell is None] == blank
    assert len(found["Synthesized faces, ER-FP, 1 shot"]["rows"]) == 2 * (1 + len(RIVALS)) + 2
    # Twins share what they train: ER-SS, ER-FE and two pairs.
    trained = Path(command[command.index("--store") + 1]) / "artifacts"
    assert [len([*(trained / kind).iterdir()]) for kind in ("compgan", "rival", "judge")] == [4, 4 * len(RIVALS), 4]


def test_the_report_has_the_papers_numbers_a_verdict_for_each_claim_and_records_that_are_there(done, command):
    files = done["report"]
    texts = {name: open(path, encoding="utf-8").read() for name, path in files.items()}
    for name in ("report.md", "index.html", "cells.csv", "tables.tex"):
        assert "44.19" in texts[name] and "14.25" in texts[name]
    claims = [*csv.DictReader(texts["claims.csv"].splitlines())]
    assert {"holds", "does not hold", "undecided"} >= {claim["verdict"] for claim in claims}
    assert sum(done["claims"].values()) > 60
    judged = [claim for claim in claims if claim["measure"] == "read by the judge"]
    assert len(judged) == 3 * len(RIVALS) * 4  # expression, pose and identity; twins have the same generators
    assert all(float(claim["over_images_low"]) <= float(claim["difference"]) for claim in judged)
    cells = [*csv.DictReader(texts["cells.csv"].splitlines())]
    for cell in cells:
        assert bool(cell["mean"]) == bool(cell["records"]) != bool(cell["why_not"])
        for url in cell["records"].split():
            stage = json.loads(open(url.removeprefix("file://")).read())["stage"]
            of = cell["table"].split(",")[0]
            assert stage in {"Edited faces": ("quality", "judge"), "Synthesized faces": ("fidelity",)}.get(
                of, ("evaluate",)
            )
    ids = set(re.findall(r' id="([^"]+)"', texts["index.html"]))
    assert {target for target in re.findall(r'href="#([^"]+)"', texts["index.html"])} <= ids
    again = facts(orch(*command))
    assert again["stage_runs"]["to_run"] == 0 and again["tables"] == done["tables"]


@browser
@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_in_a_browser_its_page_can_be_read_and_shows_every_picture(done, tmp_path, width, dark):
    page = Path(done["report"]["index.html"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == len(RIVALS) + 6  # sheets, and Figs. 5 and 6, 11, 13 to 15 and 18
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)  # no network
    looked_at(page, tmp_path, width, dark)


FER_FACES = 6  # of each of 7 expressions, on each side


def fer2013(path):
    """A file in the format of FER2013, whose expressions differ in brightness."""
    rng = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for side in ("Training", "PublicTest", "PrivateTest"):
        for emotion in [*range(7)] * FER_FACES:
            pixels = (30 * emotion + rng.integers(0, 40, 48 * 48)).tolist()
            lines.append(f"{emotion},{' '.join(map(str, pixels))},{side}")
    path.mkdir()
    (path / "fer2013.csv").write_text("\n".join(lines))
    return str(path)


def celeba(path):
    """24 faces in CelebA's format, that know nothing but their attributes."""
    (path / "img_align_celeba").mkdir(parents=True)
    lines = ["24", "Bald Smiling Young"]
    for n in range(1, 25):
        Image.new("RGB", (40, 48), (10 * n, 128 * (n % 2), 90)).save(path / f"img_align_celeba/{n:06d}.jpg")
        lines.append(f"{n:06d}.jpg {' '.join('1' if n % k == 0 else '-1' for k in (4, 2, 1))}")
    (path / "list_attr_celeba.txt").write_text("\n".join(lines))
    return str(path)


def test_table_2_is_computed_where_fer2013_was_imported_and_says_why_where_jaffe_was_not(command, tmp_path):
    store = command[command.index("--store") + 1]
    import_dataset(open_artifacts(store), "fer2013", fer2013(tmp_path / "fer"), "fer")
    import_dataset(open_artifacts(store), "celeba", celeba(tmp_path / "celeba"), "stars")
    again = [part if part != "4,5" else "2,3" for part in command]
    done = facts(orch(*again, "--pretrained-on", "stars", "--attributes", "--set", "supervised.schedule.epochs=1"))
    assert not done["failures"]
    found = {table["name"]: table["rows"] for table in done["tables"]}
    computed = {title: means[0] for title, means in found["Table 2"].items()}
    assert {title for title, mean in computed.items() if mean is None} == {
        "Go-Deep (quoted)",
        "DNNRL (quoted)",
        "BOVW + local SVM (quoted)",
    }
    assert computed["Fisherface"] > 60  # expressions differ in brightness; chance is 14
    assert None not in {mean for (mean,) in found["Supervised on drawn"].values()}
    assert {mean for (mean,) in found["Table 3"].values()} == {None}
    assert "JAFFE was not imported" in open(done["report"]["report.md"]).read()
