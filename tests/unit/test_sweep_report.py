"""The report of a sweep: files, and a page that needs nothing else."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from sweep_records import head, result, trial

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.ledger import TestTable
from orchestrator.sweeps.page import duration
from orchestrator.sweeps.report import write_report

VOID = {"meta", "br", "line", "circle", "path", "use", "rect"}
COUNTS = ("0", "10", "1000")


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def counts(seeds=3):
    return [
        trial(
            {"synth.count": c},
            [30.0 + i + s for s in range(seeds)],
            stages={s: {"split": f"{i}{s}"} for s in range(seeds)},
        )
        for i, c in enumerate(COUNTS)
    ]


def write(directory, trials, fields=("synth.count",), test=None, seconds=None, **more):
    paths = write_report(directory, Findings(head(*fields), tuple(trials), test, seconds or {}, **more))
    assert {path.name for path in directory.iterdir()} == {path.name for path in paths}
    return Page((directory / "index.html").read_text()), {path.name for path in paths}


def test_a_sweep_over_the_count_becomes_two_tables_two_pictures_and_a_page(tmp_path):
    table = TestTable(
        chosen={"synth.count": "1000"}, rows={"chosen": (result(0, 41.0),), "baseline": (result(0, 38.5),)}
    )
    page, names = write(
        tmp_path,
        counts(),
        test=table,
        seconds={"00": 7200.0},
        baseline_values={"synth.count": "0"},
        command="orch sweep",
    )
    assert names == {"index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.png", "accuracy_by_count.png"}
    assert Image.open(tmp_path / "accuracy_by_count.png").size == (1200, 672)
    for said in (
        "read once, at the end, for the chosen and the baseline configuration",
        "+2.5 points",
        "33.0",
        "2\N{NO-BREAK SPACE}h",
        "orch sweep",
    ):
        assert said in page.text
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert [row["synth.count"] for row in rows] == ["1000", "10", "0"]
    assert (rows[0]["mean"], rows[0]["mean_low"], rows[0]["difference"], rows[0]["exp.base"]) == (
        "33.0",
        "32.0",
        "2.0",
        "69.0",
    )
    facts = json.loads((tmp_path / "leaderboard.json").read_text())
    assert facts["chosen"] == facts["lines"][0]["key"] and facts["baseline"] == facts["lines"][2]["key"]


def test_the_page_loads_nothing_and_its_ids_and_references_are_its_own(tmp_path):
    page, _ = write(tmp_path, counts())
    assert len(page.ids) == len(set(page.ids)) > 0
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    text = (tmp_path / "index.html").read_text()
    assert set(re.findall(r"url\(#(\w+)\)", text)) <= set(page.ids)
    assert re.findall(r"https?://(?!www\.w3\.org/)", text) == []


def test_the_same_records_make_the_same_page(tmp_path):
    write(tmp_path / "a", counts())
    write(tmp_path / "b", counts()[::-1])
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_without_a_reading_of_the_test_rows_the_page_says_so_and_with_two_seeds_why_there_is_no_interval(tmp_path):
    page, _ = write(tmp_path, counts(seeds=2))
    assert "The test rows have not been read" in page.text and "fewer than 3 seeds have no interval" in page.text


def test_a_search_gets_small_multiples_and_a_table_of_trends(tmp_path):
    trials = [trial({"lambda.exp": str(i), "mu.con": str(i * 37 % 41)}, [30.0 + i]) for i in range(1, 15)]
    page, names = write(tmp_path, trials, ("lambda.exp", "mu.con"))
    assert "main_effects.png" in names and "accuracy_by_count.png" not in names
    assert "Rank correlation" in page.text and "a doubling" in page.text


def test_an_ablation_gets_a_chart_of_its_removals(tmp_path):
    full = {"lambda.exp": "20", "mu.con": "40"}
    trials = [trial(full, [30.0] * 3), *(trial(full | {field: "0"}, [28.0] * 3) for field in full)]
    page, names = write(tmp_path, trials, tuple(full), baseline_values=full)
    assert "ablation.png" in names and "main_effects.png" not in names
    assert "without mu.con" in page.text and "−2.0" in page.text
    assert "No configuration has a higher mean than the baseline" in page.text


@pytest.mark.parametrize(
    ("accuracies", "said", "tag"),
    [
        ([31.0, 32.0, 33.0], "Best on validation rows", "best"),
        ([29.0, 32.0, 33.0], "holds 0", "highest"),
        ([31.0, 32.0], "too few seeds for an interval", "highest"),
    ],
)
def test_only_what_is_told_from_the_baseline_is_called_best(tmp_path, accuracies, said, tag):
    trials = [trial({"x": "0"}, [30.0] * len(accuracies)), trial({"x": "1"}, accuracies)]
    page, _ = write(tmp_path, trials, ("x",), baseline_values={"x": "0"})
    assert said in page.text and f"x=1{tag}" in page.text
    assert ("Best on" in page.text) == (tag == "best") and ("Highest on" in page.text) == (tag == "highest")


def test_a_line_through_few_configurations_is_not_drawn(tmp_path):
    trials = [trial({"lambda.exp": str(i), "mu.con": str(7 * i % 5)}, [30.0 + i]) for i in range(1, 5)]
    page, _ = write(tmp_path, trials, ("lambda.exp", "mu.con"))
    assert "too few for a line" in page.text and "Rank correlation" not in page.text


def test_the_time_of_trials_that_were_stopped_is_told(tmp_path):
    stopped = trial({"synth.count": "7"}, [], state="stopped").model_copy(update={"seconds": 90.0})
    page, _ = write(tmp_path, [*counts(), stopped], seconds={"00": 60.0})
    assert "Stopped and failed trials took 1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}30" in page.text


def test_a_failure_is_told_as_text_whatever_it_holds(tmp_path):
    failure = "The loss <script>alert(1)</script> is not finite"
    page, _ = write(tmp_path, [*counts(), trial({"synth.count": "7"}, [], state="failed", failure=failure, tries=3)])
    assert failure in page.text


@pytest.mark.parametrize("trials", [[], [trial({"synth.count": "7"}, [], state="failed", failure="It fell.")]])
def test_a_sweep_in_which_nothing_finished_has_a_report_too(tmp_path, trials):
    page, names = write(tmp_path, trials)
    assert names == {"index.html", "leaderboard.csv", "leaderboard.json"}
    assert "Leaderboard" not in page.text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.31, "0.31 s"), (41.2, "41 s"), (59.9, "60 s"), (200, "3 min 20 s"), (8040, "2 h 14 min")]
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
