"""Whether one row beats another, and the paper's figures."""

import numpy as np
import pytest

from compgan_core.variants import TABLE_4, TABLE_5, VARIANTS
from orchestrator.reproduce.paper import TASKS, paper
from orchestrator.reproduce.report import difference
from orchestrator.reproduce.significance import Run, compare, spread, t_interval
from orchestrator.reproduce.tables import Finding


def hits(share, n, draws=3, tunings=2, seeds=1, of_images=None):
    """A row that reads this share of n images right, in each run another part of them."""
    rng = np.random.default_rng(round(1000 * share))
    ease = rng.permutation(n) if of_images is None else of_images
    runs = [Run(s, d, t) for s in range(seeds) for d in range(draws) for t in range(tunings)]
    return {run: ease + rng.integers(0, n // 20, n) < share * n for run in runs}


def test_the_interval_of_draws_is_students_and_fine_tunings_do_not_narrow_it():
    values = {Run(0, d, t): v + t for d, v in enumerate((10.0, 20.0, 30.0)) for t in range(3)}
    found = spread(values)
    assert (found.mean, found.units, found.runs) == (21, 3, 9)
    assert found.interval == pytest.approx((0, 21 + 4.303 * 10 / 3**0.5))  # no accuracy is negative
    assert t_interval([1.0]) is None


def test_with_several_seeds_the_seeds_are_the_units_and_their_draws_do_not_narrow_the_interval():
    values = {Run(s, d, 0): 10.0 * s + d for s in range(2) for d in range(5)}
    found = spread(values)
    assert (found.units, found.runs) == (2, 10)
    assert found.interval == pytest.approx((0, t_interval([2.0, 12.0]).high))


def test_a_clear_gain_holds_its_reverse_does_not_and_no_difference_is_undecided():
    ease = np.random.default_rng(1).permutation(400)
    better, worse = hits(0.6, 400, of_images=ease), hits(0.4, 400, of_images=ease)
    assert compare(better, worse).verdict == "holds"
    assert compare(worse, better).verdict == "does not hold"
    assert compare(better, better).verdict == "undecided"
    assert compare(better, worse).difference == pytest.approx(20, abs=2)
    assert compare(better, {}) is None
    of_seeds = compare(*(hits(share, 400, seeds=2, of_images=ease) for share in (0.7, 0.5)))
    assert (of_seeds.what, of_seeds.units) == ("seeds", 2)
    assert difference(compare(better, worse)).startswith("+") and "(draws +" in difference(compare(better, worse))
    assert "(seeds " in difference(of_seeds)


def test_few_test_images_leave_undecided_what_many_decide():
    verdicts = []
    for n in (20, 2000):
        ease = np.random.default_rng(2).permutation(n)
        verdicts.append(compare(hits(0.55, n, of_images=ease), hits(0.5, n)).verdict)
    assert verdicts == ["undecided", "holds"]


def test_draws_that_disagree_leave_undecided_what_the_images_alone_would_decide():
    gains = {0: 0.9, 1: 0.9, 2: 0.1}  # the third draw loses what the others gain
    better = {Run(0, d, 0): np.arange(500) < 500 * gain for d, gain in gains.items()}
    worse = {run: np.arange(500) < 250 for run in better}
    found = compare(better, worse)
    assert found.over_images.low > 0 > found.over_units.low
    assert found.verdict == "undecided"


def test_the_bootstrap_of_images_agrees_with_the_normal_interval():
    rng = np.random.default_rng(3)
    better, worse = {Run(0, 0, 0): rng.random(3000) < 0.6}, {Run(0, 0, 0): rng.random(3000) < 0.5}
    d = better[Run(0, 0, 0)].astype(float) - worse[Run(0, 0, 0)]
    half = 100 * 1.96 * d.std() / 3000**0.5
    found = compare(better, worse)
    assert found.over_units is None
    assert found.over_images == pytest.approx((100 * d.mean() - half, 100 * d.mean() + half), abs=0.15)


def test_edits_of_one_tuple_are_compared_in_pairs_and_count_once():
    tuples = np.arange(512)  # read in both, one or none of a tuple's two edits
    one, other = ((tuples < share * 512).astype(float) for share in (0.50, 0.47))
    by_chance = np.random.default_rng(4).permutation(other)
    assert compare({Run(0, 0, 0): one}, {Run(0, 0, 0): other}).verdict == "holds"
    assert compare({Run(0, 0, 0): one}, {Run(0, 0, 0): by_chance}).verdict == "undecided"
    halves = compare({Run(0, 0, 0): (one + other) / 2}, {Run(0, 0, 0): other})
    assert (halves.verdict, halves.units) == ("holds", 1) and halves.difference == pytest.approx(1.5, abs=0.2)


def test_the_papers_figures_agree_with_one_another():
    tables = paper().tables
    assert (tables[4].rows, tables[5].rows) == (TABLE_4, TABLE_5)
    assert tables[4].tasks == tables[5].tasks == TASKS
    for variant in set(TABLE_4) & set(TABLE_5):
        assert tables[4].values[variant] == tables[5].values[variant]
    typo = ("exp", "ER-FP")  # 53.21 in Table 5, 52.21 in Table 6
    for variant, by_task in tables[6].values.items():
        for task, by_shots in by_task.items():
            assert (by_shots[0] == tables[5].values[variant][task]) == ((variant, task) != typo)
    for variant, by_task in tables[7].values.items():
        source = tables[5] if variant in TABLE_5 else tables[4]
        accuracy, _, precision, recall, f1 = by_task["ER-FE"]
        assert accuracy == source.values[variant]["ER-FE"]
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=0.011)
    for claim in paper().claims:
        assert {claim.better, *claim.worse} <= VARIANTS.keys()
        assert claim.ours or {claim.better, *claim.worse} <= set(tables[claim.table].rows)


def test_a_rise_of_one_measure_against_a_fall_of_another_decides_nothing():
    claim = paper().claims[0]
    rows = {share: {Run(0, 0, 0): np.arange(500) < 5 * share} for share in (40, 50, 60)}
    up, down, neither = (compare(rows[a], rows[b]) for a, b in ((60, 40), (40, 60), (50, 50)))
    verdicts = {}
    for name, others in {"alone": (), "beside": (neither,), "against": (neither, down)}.items():
        measures = {str(i): c for i, c in enumerate((up, *others))}
        verdicts[name] = Finding(claim, "ER-FE", 1, "plain", 5.2, measures).verdict
    assert verdicts == {"alone": "holds", "beside": "holds", "against": "undecided"}
    assert Finding(claim, "ER-FE", 1, "plain", 5.2, {}).verdict is None
