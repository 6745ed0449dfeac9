"""Numbers from a sweep's records."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_records import head, trial

from orchestrator.sweeps.analysis import baseline_of, bootstrap, changes, leaderboard, main_effects, paired
from orchestrator.sweeps.cost import cost

percent = st.floats(0, 100)


def board(trials, fields=("x",), baseline=None):
    return leaderboard(head(*fields), trials, "exp", "novel", baseline)


def test_the_best_finished_configuration_leads_and_what_has_no_result_to_trust_comes_last():
    trials = [
        trial({"x": "1"}, [99.0], state="failed", failure="The loss is not finite."),
        trial({"x": "2"}, [98.0], state="stopped"),
        trial({"x": "3"}, [], state="stopped"),
        trial({"x": "4"}, [30.0, 40.0]),
        trial({"x": "5"}, [50.0, 60.0]),
    ]
    lines = board(trials)
    assert [line.values["x"] for line in lines] == ["5", "4", "2", "3", "1"]
    assert (lines[0].mean, lines[0].deviation) == (55, pytest.approx(50**0.5))
    assert lines[0].measures == {"plain.novel": 20, "plain.base": 70, "exp.novel": 55, "exp.base": 69}
    assert lines[3].mean is None and lines[-1].failure == "The loss is not finite."


def test_there_is_no_interval_for_fewer_than_three_seeds():
    lines = board([trial({"x": "1"}, [3.0, 2.0]), trial({"x": "2"}, [1.0, 1.2, 1.1])])
    assert [line.interval is None for line in lines] == [True, False]


@given(st.lists(percent, min_size=3, max_size=8))
def test_an_interval_holds_the_mean_stays_within_the_values_and_is_always_the_same(values):
    low, high = bootstrap(values)
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9 and np.mean(values) - 1e-9 <= high <= max(values) + 1e-9
    assert bootstrap(values) == (low, high)


def test_an_interval_of_many_seeds_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(50, 4, size=400)
    low, high = bootstrap(list(values))
    error = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.05)


def test_the_difference_to_the_baseline_is_taken_seed_by_seed():
    trials = [trial({"x": "0"}, [10.0, 20.0, 30.0, 99.0]), trial({"x": "1"}, [11.0, 21.5, 31.0])]
    lines = board(trials, baseline={"x": "0"})
    by_value = {line.values["x"]: line for line in lines}
    assert by_value["0"].difference is None
    difference = by_value["1"].difference
    assert (difference.mean, difference.seeds) == (pytest.approx(3.5 / 3), 3)
    assert difference.interval == pytest.approx((1.0, 1.5))
    assert paired({1: 5.0}, {2: 5.0}) is None


def test_a_baseline_that_failed_is_none():
    lines = board([trial({"x": "0"}, [1.0], state="failed"), trial({"x": "1"}, [2.0])], baseline={"x": "0"})
    assert baseline_of(lines, {"x": "0"}) is None and lines[0].difference is None


def test_a_grid_has_the_mean_of_every_value_the_larger_effect_first():
    trials = [
        trial({"x": x, "y": y}, [float(x) + 10 * (y == "sgd")]) for x in ("1", "2", "10") for y in ("adam", "sgd")
    ]
    y, x = main_effects(board(trials, ("x", "y")))
    assert [(level.value, level.mean, level.configurations) for level in x.levels] == [
        ("1", 6, 2),
        ("2", 7, 2),
        ("10", 15, 2),
    ]
    assert ([level.value for level in y.levels], y.size, y.trend) == (["adam", "sgd"], 10, None)


def test_a_random_search_has_a_trend_a_doubling_with_an_interval_that_holds_the_truth():
    rng = np.random.default_rng(1)
    values = [{"a": f"{2 ** rng.uniform(0, 4):.4g}", "b": f"{rng.uniform(-1, 1):.4g}"} for _ in range(40)]
    trials = [trial(v, [30 + 2 * np.log2(float(v["a"])) + rng.normal(0, 0.5)]) for v in values]
    a, b = main_effects(board(trials, ("a", "b")))
    assert (a.field, a.trend.per, a.trend.clear) == ("a", "doubling", True)
    assert a.trend.interval.low < 2 < a.trend.interval.high and a.trend.correlation > 0.9
    assert a.size == pytest.approx(2 * 4, abs=1) and a.trend.at(8) == pytest.approx(36, abs=0.5)
    assert (b.field, b.trend.per) == ("b", "unit") and abs(b.trend.correlation) < 0.4


def test_a_trend_through_few_configurations_has_no_interval():
    (effect, _) = main_effects(
        board([trial({"x": str(i), "y": str(i * i)}, [float(i)]) for i in range(1, 6)], ("x", "y"))
    )
    assert effect.trend.interval is None and not effect.trend.clear
    assert effect.trend.correlation == pytest.approx(1)


def test_equal_accuracies_correlate_with_nothing():
    (effect, _) = main_effects(board([trial({"x": str(i), "y": str(i)}, [5.0]) for i in range(1, 6)], ("x", "y")))
    assert (effect.trend.correlation, effect.size) == (0, pytest.approx(0))


def test_an_ablation_has_the_difference_of_every_removal_to_the_full_model():
    full = {"l.exp": "20", "m.exp": "30", "l.id": "10", "m.id": "15"}
    removals = [full | {"l.exp": "0", "m.exp": "0"}, full | {"l.id": "0", "m.id": "0"}]
    trials = [trial(v, [a, a + 1, a + 2]) for v, a in zip([full, *removals], (30.0, 29.0, 25.0), strict=True)]
    lines = board(trials, tuple(full), full)
    worst, other = changes(lines, baseline_of(lines, full))
    assert (worst.name, worst.difference.mean) == ("without l.id and m.id", -5)
    assert (other.values, other.difference.mean) == ({"l.exp": "0", "m.exp": "0"}, -1)


@pytest.mark.parametrize(
    "configurations",
    [
        [{"x": x, "y": y} for x in "12" for y in "12"],  # a grid
        [{"x": str(i), "y": "1"} for i in range(1, 5)],  # one field
        [{"x": "1", "y": "1"}, *({"x": str(i), "y": str(i)} for i in range(2, 6))],  # a search
    ],
)
def test_other_sweeps_are_no_ablation(configurations):
    lines = board([trial(v, [1.0]) for v in configurations], ("x", "y"), configurations[0])
    assert changes(lines, baseline_of(lines, configurations[0])) == []


def test_a_shared_stage_counts_once_and_as_often_as_separate_runs_would_have_run_it():
    stages = [
        {0: {"pretrain": "p0", "finetune exp #0": f"f{x}0"}, 1: {"pretrain": "p1", "finetune exp #0": f"f{x}1"}}
        for x in range(3)
    ]
    trials = [trial({"x": str(x)}, [1.0, 1.0], stages=stages[x]) for x in range(3)]
    seconds = {"p0": 100.0, "p1": 110.0} | {f"f{x}{seed}": 10.0 for x in range(3) for seed in range(2) if x or seed}
    found = cost(trials, seconds)
    assert [(s.kind, s.runs, s.separate_runs) for s in found.stages] == [("pretrain", 2, 6), ("finetune", 6, 6)]
    assert (found.seconds, found.separate_seconds, found.untimed) == (260, 680, 1)
    assert found.factor == pytest.approx(680 / 260)
    assert cost([], {}).factor is None
