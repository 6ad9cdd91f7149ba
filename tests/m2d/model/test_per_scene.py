"""Blocks that run one scene after the other compute what the joined form computes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.model.context_cache import keep_context
from m2d.model.execution import SMALLEST_SCENE, Execution, choose_execution
from tests.m2d.families.cogvideox.test_transformer import MASKS, make_inputs, make_model, max_error, story

TOLERANCE = 1e-6  # float32: the same sums in another order, outputs of about 1


def both_ways(
    model: SceneTransformer, layout: SceneLayout, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """The velocity one scene after the other, and with all activations joined."""
    inputs = make_inputs(layout)
    per_scene, joined = (
        model(*inputs, layout=layout, execution=execution, **options)
        for execution in get_args(Execution)[::-1]
    )
    return per_scene, joined


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("targets", [None, (1,), (0, 3)])
def test_scene_by_scene_equals_the_joined_form(mask: str, targets: tuple[int, ...] | None) -> None:
    layout = SceneLayout.build(mask, text_tokens=[3, 1, 4, 2], latent_frames=[2, 1, 3, 2], tokens_per_frame=8)
    per_scene, joined = both_ways(make_model(), layout, targets=targets)
    assert joined.abs().max() > 0.1
    assert max_error(per_scene, joined) <= TOLERANCE * max(1.0, joined.abs().max().item())


@torch.no_grad()
def test_a_model_without_rotary_embeddings_runs_per_scene_too() -> None:
    model = make_model(use_rotary_positional_embeddings=False)
    per_scene, joined = both_ways(model, story())
    assert max_error(per_scene, joined) <= TOLERANCE * max(1.0, joined.abs().max().item())


@torch.no_grad()
def test_kept_context_runs_per_scene_too() -> None:
    model, layout = make_model(), story("causal", frames=(2, 1, 2))
    latents, prompts, timesteps = make_inputs(layout)
    timesteps[:, :2] = 0
    want = model(latents, prompts, timesteps, layout=layout, targets=(2,))
    kept = keep_context(model, latents, prompts, layout=layout, targets=(2,), execution="per_scene")
    got = model(latents, prompts, timesteps, layout=layout, context=kept, execution="per_scene")
    assert max_error(got, want) <= TOLERANCE * max(1.0, want.abs().max().item())


@torch.no_grad()
def test_bfloat16_is_as_exact_per_scene_as_joined() -> None:
    layout = story()
    exact = make_model()(*make_inputs(layout), layout=layout)
    model = make_model().to(torch.bfloat16)
    inputs = [x.to(torch.bfloat16) if x.is_floating_point() else x for x in make_inputs(layout)]
    errors = []
    for execution in ("per_scene", "joined"):
        velocity = model(*inputs, layout=layout, execution=execution)
        errors.append((velocity.float() - exact).norm().item())
    assert errors[0] <= 1.2 * errors[1]


def test_gradients_flow_through_the_joined_form_which_is_the_default() -> None:
    model, layout = make_model(), story()
    model(*make_inputs(layout), layout=layout).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("tokens", "execution"), [(SMALLEST_SCENE - 1, "joined"), (SMALLEST_SCENE, "per_scene")]
)
def test_the_smallest_scene_decides_how_blocks_run(tokens: int, execution: Execution) -> None:
    layout = SceneLayout.build("mask2dit", text_tokens=[3, 3], latent_frames=[1, 2], tokens_per_frame=tokens)
    assert choose_execution(layout) == execution


@torch.no_grad()
def test_inputs_are_left_as_they_are() -> None:
    model, layout = make_model(), story()
    inputs = make_inputs(layout)
    before = [tensor.clone() for tensor in inputs]
    first = model(*inputs, layout=layout, execution="per_scene")
    assert all(torch.equal(now, was) for now, was in zip(inputs, before, strict=True))
    assert torch.equal(model(*inputs, layout=layout, execution="per_scene"), first)
