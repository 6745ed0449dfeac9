"""The table, from records."""

import pytest

from orchestrator.artifacts.artifacts import Record
from orchestrator.results import table


def record(**metrics):
    return Record(
        stage="evaluate", fingerprint="f", recipe={}, inputs={}, files={}, metrics=metrics, seconds=0, created="",
        code_version="", libraries={}, host="",
    )  # fmt: skip


def test_a_row_is_the_mean_over_the_draws_with_its_standard_error():
    records = {f"evaluate exp #{i}": record(base=50.0, novel=v) for i, v in enumerate((10.0, 20.0, 30.0))}
    (row,) = table({"exp": "L. + G(Exp)", "plain": "L."}, records)
    assert (row.means["novel"], row.runs) == (20, 3)
    assert row.errors["novel"] == pytest.approx(10 / 3**0.5)
    assert [row.cell(c) for c in ("novel", "base", "novel_only")] == ["20.0±5.8", "50.0±0.0", ""]


def test_fine_tunings_of_one_draw_share_its_shots_and_count_as_one():
    runs = {"0": 10.0, "0.1": 30.0, "1": 40.0, "1.1": 40.0}
    (row,) = table({"exp": "E"}, {f"evaluate exp #{run}": record(novel=v) for run, v in runs.items()})
    assert (row.means["novel"], row.runs) == (30, 4)
    assert row.errors["novel"] == pytest.approx(10)


def test_a_single_draw_has_no_error():
    (row,) = table({"plain": "L."}, {"evaluate plain #0": record(base=50.0), "evaluate exp #0": record(base=1.0)})
    assert row.cell("base") == "50.0"


def test_validation_and_test_rows_make_tables_of_their_own():
    records = {"evaluate plain #0": record(base=50.0), "validate plain #0": record(base=60.0)}
    means = [table({"plain": "L."}, records, measure)[0].means for measure in ("evaluate", "validate")]
    assert means == [{"base": 50.0}, {"base": 60.0}]
