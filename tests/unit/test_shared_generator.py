"""The ablation with one generator for pose and expression."""

import numpy as np
import pytest
import torch
from test_validate import NETWORK, SIZE, inputs  # noqa: F401
from test_views import make_labels

from compgan_core import networks, stages, synthesize
from compgan_core.compgan import CompGAN, generator_gradients
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.errors import ConfigurationError
from compgan_core.losses import LAMBDA, MU, TERMS
from compgan_core.nets.gan import DiscriminatorRecipe, GeneratorRecipe
from compgan_core.recipe import make_recipe
from compgan_core.training.gan import CompGANRecipe
from compgan_core.training.optim import ScheduleRecipe
from compgan_core.training.runtime import Local, load_state

SHARED = GeneratorRecipe(width=2, downs=2, residual_blocks=0, skips=1, shared=True)


def test_its_gradient_is_that_of_the_mean_of_both_sums():
    gan = networks.comp_gan(SHARED, 0)
    twins = CompGAN(gan.pose, networks.comp_gan(SHARED, 0).pose)
    faces, references = torch.rand(1, 3, SIZE, SIZE), torch.rand(8, 1, 3, SIZE, SIZE)

    def terms(of):
        return {name: of(faces, references)[i].square().mean() for i, name in enumerate(TERMS)}

    shared, nothing = generator_gradients(terms(gan), gan, LAMBDA, MU)
    assert nothing == []
    weighted = sum((getattr(LAMBDA, n) + getattr(MU, n)) / 2 * t for n, t in terms(gan).items())
    expected = torch.autograd.grad(weighted, list(gan.pose.parameters()))
    for ours, theirs in zip(shared, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(generator_gradients(terms(twins), twins, LAMBDA, MU)[1]) == len(shared)


def test_training_leaves_one_network_under_both_names(inputs, tmp_path):  # noqa: F811
    recipe = CompGANRecipe(
        generator=SHARED,
        discriminator=DiscriminatorRecipe(width=2, downs=2, hidden=4),
        schedule=ScheduleRecipe(steps=2, batch=2, micro_batch=1),
        reference_mismatch=0,
    )
    common = {"network": NETWORK, "size": SIZE, "lambda_": LAMBDA, "mu": MU, "seed": 0}
    stages.compgan(inputs, tmp_path, Local(), compgan=recipe, **common)
    pose, exp = (load_state(tmp_path / f"{name}.safetensors")[0] for name in ("pose", "exp"))
    first = networks.comp_gan(SHARED, 0).pose.state_dict()
    assert all(torch.equal(pose[name], exp[name]) for name in pose)
    assert any(not torch.equal(pose[name], first[name]) for name in pose)


def test_its_faces_are_labelled_after_the_reference():
    labels = make_labels()
    split = make_split(labels, SplitRecipe(task="ER-SS"))
    plan = synthesize.plan_edits("exp", "expression", labels, split, np.empty(0, np.int64), 9, 0, 0)
    made = synthesize.all_of_reference(plan, labels)
    assert np.array_equal(made.labels.pose, labels.pose[plan.reference])
    assert np.array_equal(made.labels.expression, plan.labels.expression)
    assert np.array_equal(made.labels.identity, labels.identity[plan.source])
    assert not np.array_equal(made.labels.pose, plan.labels.pose)


def test_references_that_are_right_in_one_attribute_only_are_refused():
    settings = {"compgan.generator.shared": "true"}
    with pytest.raises(ConfigurationError, match="set compgan.reference_mismatch=0, not 0.5"):
        make_recipe("tiny", "ER-FE", overrides=settings)
    assert make_recipe("tiny", "ER-FE", overrides=settings | {"compgan.reference_mismatch": "0"})
