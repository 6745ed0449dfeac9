"""What `--over` texts and named spaces mean, and what is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compgan_core.errors import ConfigurationError
from compgan_core.losses import LAMBDA, MU
from compgan_core.recipe import make_recipe
from orchestrator.sweeps.space import COUNTS, WEIGHTS, parse

SEEDS, INDICES = st.integers(0, 2**31), st.integers(0, 10**6)
NUMBERS = st.floats(0, 1e6) | st.integers(0, 10**6)
SPELLINGS = st.sampled_from([str, lambda number: f"{number:.17e}", lambda number: f" {number}"])


def values(field, value):
    """Distinct values of a field, as somebody may write them."""
    return st.lists(value, min_size=1, max_size=4, unique=True).flatmap(
        lambda chosen: st.tuples(*(SPELLINGS.map(lambda spell, v=v: spell(v)) for v in chosen)).map(
            lambda texts: f"{field}={','.join(texts)}"
        )
    )


GRIDS = st.tuples(
    values("lambda.exp", NUMBERS),
    values("mu.con", NUMBERS),
    values("compgan.schedule.steps", st.integers(0, 10**6)).filter(lambda text: "e+" not in text),
    st.sampled_from(["compgan.precision=float32,bfloat16", 'compgan.precision="bfloat16"']),
    st.sampled_from(["network.channels=[1,2,3,4],[5,6,7,8]", "compgan.blur=true,false", "split.novel_ids=null,2"]),
).flatmap(lambda texts: st.lists(st.sampled_from(texts), min_size=1, unique=True))


@st.composite
def ranges(draw):
    """(text, low, high, whether the numbers are integers)."""
    log = draw(st.booleans())
    if draw(st.booleans()):
        low, high = sorted(draw(st.lists(st.integers(int(log), 1000), min_size=2, max_size=2, unique=True)))
        kind = (
            draw(st.sampled_from([("synth.count", ""), ("lambda.exp", "int:")])) if not log else ("synth.count", "log:")
        )
        return f"{kind[0]}={kind[1]}{low}:{high}", low, high, True
    low, high = sorted(draw(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=2, unique=True)))
    return f"mu.con={'log:' * log}{low}:{high}", low, high, False


@given(GRIDS)
def test_the_grid_is_the_product_of_distinct_configurations(texts):
    space = parse(texts)
    grid = space.grid()
    assert len(grid) == math.prod(len(dimension.options) for dimension in space.dimensions)
    assert len({tuple(sorted(configuration.items())) for configuration in grid}) == len(grid)
    assert all(tuple(configuration) == space.fields for configuration in grid)


@given(GRIDS)
def test_a_canonical_text_means_what_was_written_and_is_its_own_canonical_text(texts):
    for text in texts:
        field, _, body = text.partition("=")
        parts = (
            [json.dumps(part) for part in json.loads(f"[{body}]")] if '"' in body or "[" in body else body.split(",")
        )
        again = parse([text]).grid()
        assert [make_recipe("tiny", "ER-FE", overrides={field: part}) for part in parts] == [
            make_recipe("tiny", "ER-FE", overrides=configuration) for configuration in again
        ]
        assert [parse([f"{field}={configuration[field]}"]).grid() for configuration in again] == [[c] for c in again]


@given(ranges(), SEEDS, INDICES)
def test_a_sample_is_a_short_number_of_the_range_that_the_recipe_takes(drawn, seed, index):
    text, low, high, integer = drawn
    space = parse([text])
    ((field, sampled),) = space.sample(seed, index).items()
    number = json.loads(sampled)
    assert low <= number <= high
    assert isinstance(number, int) if integer else (float(f"{number:.4g}") == number or number in (low, high))
    assert parse([f"{field}={sampled}"]).grid() == [{field: sampled}]


@given(ranges(), SEEDS, st.lists(INDICES, min_size=1, max_size=5))
def test_a_sample_depends_on_seed_and_index_and_not_on_what_was_drawn_before_or_beside_it(drawn, seed, indices):
    text, other = drawn[0], "lambda.pose=1,2,3"
    space = parse([text])
    forwards = {i: space.sample(seed, i) for i in indices}
    backwards = {i: parse([other, text]).sample(seed, i) for i in reversed(indices)}
    assert all(forwards[i].items() <= backwards[i].items() for i in indices)


@given(ranges(), SEEDS, INDICES)
def test_a_configuration_becomes_a_sample_of_tune_and_itself_again(drawn, seed, index):
    space = parse([drawn[0], "lambda.pose=1,2,3"])
    values = space.sample(seed, index)
    assert space.values(space.config(values)) == values


def test_rounding_does_not_leave_a_narrow_range():
    space = parse(["lambda.exp=1.00004:1.00005"])
    assert {space.sample(0, index)["lambda.exp"] for index in range(9)} == {"1.00004"}
    assert parse(["lambda.exp=1.99995:1.99996"]).sample(0, 0) == {"lambda.exp": "1.99996"}


def test_other_seeds_and_other_indices_are_other_configurations():
    space = parse(["lambda.exp=0:1", "mu.exp=0:1"])
    drawn = [space.sample(seed, index) for seed in range(10) for index in range(10)]
    assert len({tuple(d.values()) for d in drawn}) == 100
    assert all(d["lambda.exp"] != d["mu.exp"] for d in drawn)


def test_a_logarithmic_range_is_uniform_in_the_logarithm_and_an_integer_range_reaches_both_ends():
    space = parse(["mu.con=log:0.01:100", "synth.count=0:4", "synth.pool=log:1:8"])
    drawn = [space.sample(0, index) for index in range(2000)]
    below = sum(float(d["mu.con"]) < 1 for d in drawn)
    assert abs(below - 1000) < 100
    counts = [sum(d["synth.count"] == str(n) for d in drawn) for n in range(5)]
    assert min(counts) > 320 and sum(counts) == 2000
    assert {d["synth.pool"] for d in drawn} == {str(n) for n in range(1, 9)}
    assert sum(d["synth.pool"] == "1" for d in drawn) > 3 * sum(d["synth.pool"] == "8" for d in drawn)


def test_tune_and_optuna_sample_the_space_and_optuna_learns_from_earlier_trials():
    from ray.tune.search.optuna import OptunaSearch

    fields = ["lambda.exp=1:2", "lambda.id=int:3:4", "mu.con=log:0.1:1", "synth.count=1:2", "synth.pool=log:7:9"]
    space = parse([*fields, "compgan.precision=float32,bfloat16"])
    known = [space.config(space.sample(0, index)) for index in range(5)]
    search = OptunaSearch(seed=0, points_to_evaluate=known, evaluated_rewards=[0.0] * 5)
    assert search.set_search_properties("score", "max", space.tune())
    suggested = [search.suggest(str(number)) for number in range(50)]
    sampled = [{name: domain.sample() for name, domain in space.tune().items()} for _ in range(50)]
    drawn = [space.values(config) for config in suggested + sampled]
    assert all(space.config(values) is not None for values in drawn)
    for field, texts in {"lambda.id": "34", "synth.count": "12", "synth.pool": "789"}.items():
        assert {values[field] for values in drawn} == set(texts)


def test_a_configuration_outside_of_the_space_has_no_sample():
    space = parse(["lambda.exp=1:2", "synth.count=0:3", "mu.con=5,6"])
    inside = {"lambda.exp": "1.5", "synth.count": "2", "mu.con": "5"}
    assert space.config(inside) == {"lambda.exp": 1.5, "synth.count": 2, "mu.con": "5"}
    for outside in ({"lambda.exp": "3"}, {"synth.count": "2.5"}, {"mu.con": "7"}, {"lambda.exp": "null"}):
        assert space.config(inside | outside) is None


def test_nothing_asked_for_is_the_papers_eleven_counts():
    assert parse([]).grid() == [{"synth.count": str(count)} for count in COUNTS]
    assert (len(COUNTS), COUNTS[0], COUNTS[-1]) == (11, 0, 1000)


def test_the_weights_go_from_a_quarter_to_four_times_the_papers():
    space = parse([], "weights")
    assert len(space.fields) == 14
    for dimension in space.dimensions:
        of, _, term = dimension.name.partition(".")
        paper = getattr({"lambda": LAMBDA, "mu": MU}[of], term)
        assert (dimension.low, dimension.high, dimension.log) == (paper / 4, paper * 4, True)


def test_the_ablation_leaves_each_loss_out_of_both_generators_and_keeps_the_full_model():
    full, *without = parse([], "ablation", settings={"lambda.exp": "35"}).grid()
    assert full == {**{field: f"{weight:g}" for field, weight in WEIGHTS.items()}, "lambda.exp": "35"}
    assert len(without) == 7
    changed = [{field for field in full if other[field] != full[field]} for other in without]
    assert changed == [{f"lambda.{t}", f"mu.{t}"} for t in ("exp", "pose", "id", "con", "recon", "loop", "adv")]
    assert all(other[field] == "0" for other, fields in zip(without, changed, strict=True) for field in fields)


def test_a_loss_that_is_off_already_is_not_left_out_again():
    assert len(parse([], "ablation", settings={"lambda.id": "0", "mu.id": "0.0"}).grid()) == 7


def test_a_named_space_multiplies_with_over():
    assert len(parse(["synth.count=1,2"], "ablation").grid()) == 16


def test_the_corners_hold_every_option_and_both_ends():
    corners = parse(["lambda.exp=1:2", "synth.count=0,5,7", "mu.exp=log:3:4"]).corners()
    assert len(corners) == 3
    assert {c["synth.count"] for c in corners} == {"0", "5", "7"}
    assert {c["lambda.exp"] for c in corners} == {"1", "2"} and {c["mu.exp"] for c in corners} == {"3", "4"}


def test_a_text_that_looks_like_a_number_stays_a_text():
    (configuration,) = parse(['split.novel_pose="90"']).grid()
    assert make_recipe("tiny", "ER-FP", overrides=configuration).split.novel_pose == "90"


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["lambda.exq=1,2"], r"no key 'lambda.exq'; did you mean lambda.exp"),
        (["synth.count=1,2.5"], r"synth.count=2.5: Input should be a valid integer"),
        (["lambda.exp=1,abc"], r"lambda.exp='abc': Input should be a valid number"),
        (["finetune.novel_share=0:1.5"], r"finetune.novel_share=1.5: .*less than or equal to 1"),
        (["lambda.exp=1,inf"], "lambda.exp=inf is not finite"),
        (["lambda.exp=NaN,1"], "lambda.exp=NaN is not finite"),
        (["lambda.exp=0:Infinity"], "lambda.exp=Infinity is not finite"),
        (["lambda.exp=30:10"], "reversed range"),
        (["lambda.exp=10:10.0"], "empty range: write lambda.exp=10 or"),
        (["lambda.exp=log:0:10"], "touches 0"),
        (["lambda.exp=log:-5:10"], "touches 0"),
        (["synth.count=log:0:10"], "touches 0"),
        (["lambda.exp=int:0.5:10"], "range of integers"),
        (["compgan.blur=0:1"], "compgan.blur is no number"),
        (["split.novel_pose=a:b"], "split.novel_pose is no number"),
        (["lambda.exp=10,20,10.0"], "repeats 10"),
        (["lambda.exp=10,,20"], "empty value"),
        (["lambda.exp"], "has no values"),
        (["lambda.exp="], "has no values"),
        (["=1,2"], "has no values"),
        (["lambda.exp=1,2", "lambda.exp=3,4"], "lambda.exp is given twice"),
        (["mu.exp=1,2"], "mu.exp is given twice"),
        (["lambda=1,2"], r"lambda=1: Input should be a valid dictionary"),
        ([f"lambda={LAMBDA.model_dump_json()}"], r"lambda is a group of fields: name one, as in lambda.exp"),
        (["seed=1,2"], "give it with --seeds"),
        (["split.task=ER-FE,ER-FP"], "give it with --task"),
        (['variants=["plain"],["exp"]'], "give it with --set variants"),
        (["synth.count=-1,5"], "synth.count=-1: .*greater than or equal to 0"),
        (["synth.count=-5:5"], "synth.count=-5: .*greater than or equal to 0"),
        (["synth.count=10,1001"], "synth.count=1001 is above 1000.*--allow"),
        (["synth.count=10:5000"], "synth.count=5000 is above 1000.*--allow"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(over, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse(over, settings={"mu.exp": "3"})
    assert "\n" not in str(caught.value)


def test_a_space_that_nobody_named_is_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match="no space 'weight'; did you mean weights"):
        parse([], "weight")


@pytest.mark.parametrize("named", ["weights", "ablation"])
def test_a_field_of_a_named_space_cannot_be_given_again(named):
    with pytest.raises(ConfigurationError, match="mu.con is given twice"):
        parse(["mu.con=1,2"], named)


def test_allow_lets_more_images_through_than_the_papers_most():
    assert parse(["synth.count=10,2000"], allow=True).grid() == [{"synth.count": "10"}, {"synth.count": "2000"}]
    assert parse(["synth.count=log:10:5000"], allow=True).dimensions[0].high == 5000


def test_allow_never_allows_a_negative_count():
    with pytest.raises(ConfigurationError, match="greater than or equal to 0"):
        parse(["synth.count=-1"], allow=True)


def test_a_grid_of_a_range_is_refused_with_the_ways_out():
    with pytest.raises(
        ConfigurationError, match=r"mu.con is a range.*--over mu.con=V1,V2,V3.*--search random.*--trials"
    ):
        parse(["synth.count=1,2", "mu.con=1:2"]).grid()
