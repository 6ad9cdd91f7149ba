"""Draws depend on their own name and on nothing drawn before."""

import pytest
import torch

from m2d.diffusion.noise import draw_noise, generator


def test_the_same_name_gives_the_same_noise_whatever_was_drawn_before():
    first = draw_noise((4, 4), seed=7, purpose="initial noise", step=3, scene=1)
    torch.randn(100)
    draw_noise((2,), seed=1, purpose="other")
    assert torch.equal(draw_noise((4, 4), seed=7, purpose="initial noise", step=3, scene=1), first)


@pytest.mark.parametrize(
    "changed", [{"seed": 8}, {"purpose": "sampler noise"}, {"step": 1}, {"scene": 1}, {"seed": -7}]
)
def test_any_part_of_the_name_changes_the_noise(changed):
    name = {"seed": 7, "purpose": "initial noise", "step": 0, "scene": 0}
    assert not torch.equal(draw_noise((8,), **name), draw_noise((8,), **(name | changed)))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    draw_noise((8,), seed=0, purpose="initial noise")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_streams_are_fixed_for_all_time():
    # A film is reproduced from its seeds, so these numbers must never change.
    assert generator(0, purpose="initial noise").initial_seed() == 3176716819
    assert generator(-5, purpose="dropout", step=9, scene=2).initial_seed() == 23368768
