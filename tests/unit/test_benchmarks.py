"""The steps that benchmarks compare, before anybody measures them."""

import torch

from benchmarks.step import World, distance
from benchmarks.watching import first_people
from compgan_core.lapse import PEOPLE


def test_the_step_that_is_measured_is_the_naive_one_and_follows_its_inputs():
    world = World("tiny", "float32", 2, torch.device("cpu"))
    assert distance(world.ours(), world.naive()) < 1e-3
    world.check_replay()


def test_a_batch_of_noise_can_be_cut_to_the_people_who_are_watched():
    cut = first_people(World("tiny", "float32", PEOPLE + 1, torch.device("cpu")).batch)
    assert cut.reals.shape[1] == cut.pose.shape[1] == len(cut.identity) == PEOPLE
