"""Any subset of scenes can be given."""

import pytest

from m2d.diffusion.conditioning import Conditioning


def test_context_scenes_are_at_timestep_0_and_targets_at_the_current_one():
    conditioning = Conditioning(num_scenes=4, context=frozenset({0, 2}))
    assert conditioning.targets == (1, 3)
    assert conditioning.timesteps(640).tolist() == [0, 640, 0, 640]


def test_without_context_every_scene_is_a_target():
    assert Conditioning(num_scenes=3).targets == (0, 1, 2)


def test_a_scene_outside_the_story_cannot_be_context():
    with pytest.raises(ValueError, match=r"scenes \[-1, 3\] are not among scenes 0 to 2"):
        Conditioning(num_scenes=3, context=frozenset({-1, 0, 3}))


def test_a_story_that_is_all_context_has_nothing_to_denoise():
    with pytest.raises(ValueError, match="all 2 scenes are given"):
        Conditioning(num_scenes=2, context=frozenset({0, 1}))
