"""Guidance per scene."""

import math

import pytest
import torch

from m2d.diffusion.guidance import GuidanceRule
from m2d.layout import SceneLayout

LAYOUT = SceneLayout.build("mask2dit", text_tokens=(2, 2, 2), latent_frames=(1, 2, 3), tokens_per_frame=1)


def velocities() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(1, 6, 2, 1, 1, generator=stream), torch.randn(1, 6, 2, 1, 1, generator=stream)


def test_each_scene_is_guided_by_its_own_scale():
    uncond, cond = velocities()
    guided = GuidanceRule(scales=(0.0, 1.0, 6.0)).combine(uncond, cond, LAYOUT)
    assert torch.equal(guided[:, :1], uncond[:, :1])
    assert torch.equal(guided[:, 1:3], cond[:, 1:3])
    torch.testing.assert_close(guided[:, 3:], 6 * cond[:, 3:] - 5 * uncond[:, 3:])


def test_velocities_of_some_scenes_are_guided_by_these_scenes_scales():
    uncond, cond = velocities()
    rule = GuidanceRule(scales=(2.0, 3.0, 4.0))
    whole = rule.combine(uncond, cond, LAYOUT)
    part = rule.combine(uncond[:, [0, 3, 4, 5]], cond[:, [0, 3, 4, 5]], LAYOUT, scenes=(0, 2))
    assert torch.equal(part, whole[:, [0, 3, 4, 5]])


def test_guidance_is_needed_only_where_a_scale_differs_from_1():
    rule = GuidanceRule(scales=(6.0, 1.0, 1.0))
    assert rule.enabled_for(range(len(rule.scales)))
    assert not rule.enabled_for((1, 2))
    assert not GuidanceRule(scales=(1.0, 1.0)).enabled_for((0, 1))


def test_velocities_that_do_not_belong_to_the_scenes_are_refused():
    uncond, cond = velocities()
    with pytest.raises(ValueError, match=r"scenes \[0, 1\] have 3 latent frames, the velocity has 6"):
        GuidanceRule(scales=(1.0, 2.0, 3.0)).combine(uncond, cond, LAYOUT, scenes=(0, 1))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_number_from_0_up_is_refused(scale):
    with pytest.raises(ValueError, match=rf"scales\[1\]: {scale} is not a guidance scale"):
        GuidanceRule(scales=(1.0, scale))


@pytest.mark.parametrize("timestep", [999, 979, 499, 39, 19])
def test_dynamic_guidance_is_that_of_the_stock_pipeline(timestep: int) -> None:
    rule = GuidanceRule(scales=(6.0, 1.0, 0.0), is_dynamic=True, mode="sequential")
    # `CogVideoXPipeline.__call__` with use_dynamic_cfg, diffusers 0.42.1.
    num_inference_steps = 50
    stock = 1 + 6.0 * (
        (1 - math.cos(math.pi * ((num_inference_steps - timestep) / num_inference_steps) ** 5.0)) / 2
    )
    found = rule.at(timestep, num_steps=num_inference_steps)
    assert found == GuidanceRule(scales=(stock, 1.0, 1.0), mode="sequential")


def test_constant_guidance_is_the_same_at_every_step() -> None:
    rule = GuidanceRule(scales=(6.0,))
    assert rule.at(999, num_steps=50) is rule
