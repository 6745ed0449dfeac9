"""Presets and overrides."""

import pytest

from compgan_core.errors import ConfigurationError
from compgan_core.recipe import PRESETS, Recipe, make_recipe


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_recipe_and_survives_json(preset):
    recipe = make_recipe(preset, "ER-FE", 5)
    assert recipe.preset == preset
    assert Recipe.model_validate_json(recipe.model_dump_json(by_alias=True)) == recipe


def test_the_paper_preset_has_the_papers_numbers():
    r = make_recipe("paper", "ER-FE")
    assert (r.faces.stored_size, r.faces.size, r.classifier.dropout) == (144, 128, 0.5)
    assert (r.classifier.schedule.epochs, r.classifier.schedule.hold, r.classifier.schedule.batch) == (50, 0.6, 64)
    assert (r.classifier.optimizer.name, r.classifier.optimizer.lr) == ("sgd", 0.01)
    assert (r.compgan.generator_optimizer.lr, r.compgan.schedule.batch) == (2e-4, 64)
    assert (r.compgan.gamma1, r.compgan.gamma2, r.pretrain.schedule.epochs) == (1, 0.1, 30)


def test_overrides_reach_any_field_by_its_dotted_name():
    r = make_recipe(
        "tiny", "ER-FE", overrides={"lambda.exp": "7", "compgan.precision": "float32", "variants": '["exp"]'}
    )
    assert (r.lambda_.exp, r.compgan.precision, r.variants) == (7, "float32", ("exp",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"compgan.schedule.step": "3"}, "did you mean compgan.schedule.steps"),
        ({"lamda.exp": "3"}, "did you mean lambda.exp"),
        ({"finetune.novel_share": "1.5"}, r"finetune.novel_share=1.5: .*less than or equal to 1"),
        ({"variants": '["exq"]'}, "no variant 'exq'; did you mean exp"),
        ({"split.task": "ER-FF"}, "ER-SS, ER-FID, ER-ZID, ER-FP, ER-ZP, ER-FE"),
    ],
)
def test_a_wrong_override_is_named_with_what_was_allowed(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        make_recipe("tiny", "ER-FE", overrides=overrides)


def test_an_unknown_preset_names_the_near_ones():
    with pytest.raises(ConfigurationError, match="did you mean tiny"):
        make_recipe("tinny", "ER-FE")
