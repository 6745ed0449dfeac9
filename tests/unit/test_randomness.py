"""Draws depend on their name alone."""

import numpy as np
import torch

from compgan_core.randomness import generator, seeded, uniform


def test_a_draw_depends_on_seed_purpose_and_index_alone():
    assert generator(1, "a", 2).integers(1 << 60) == generator(1, "a", 2).integers(1 << 60)
    names = [(1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3)]
    assert len({int(generator(*name).integers(1 << 60)) for name in names}) == 4


def test_uniform_rows_do_not_depend_on_their_neighbours():
    whole = uniform(5, "dropout", torch.arange(100), 7)
    assert torch.equal(whole[40:60], uniform(5, "dropout", torch.arange(40, 60), 7))
    assert torch.equal(whole[[3]], uniform(5, "dropout", torch.tensor([3]), 7))


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform(0, "x", torch.arange(20_000), 4).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert np.abs(counts / counts.mean() - 1).max() < 0.06  # 4000 a bin: four standard deviations
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03


def test_uniform_keeps_its_values():
    """A change here would change every run there is."""
    found = uniform(7, "golden", torch.tensor([0, 1_000_000_007]), 2)
    torch.testing.assert_close(found, torch.tensor(GOLDEN), rtol=0, atol=0)


def test_seeded_leaves_the_global_state_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(0, "init"):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "init"):
        assert torch.equal(torch.rand(2), first)


GOLDEN = [[0.914878785610199, 0.25382351875305176], [0.8102197051048279, 0.9141022562980652]]
