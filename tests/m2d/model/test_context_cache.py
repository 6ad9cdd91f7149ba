"""Kept context against the model that computes everything in every step, and against diffusers' own model."""

# B batch, F latent frames, C latent channels, H W latent size, L text tokens

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.model.context_cache import ContextCache, KeptBlock, keep_context, split_context
from tests.m2d.families.cogvideox.test_transformer import make_inputs, make_model, max_error, stock_velocity

# Float32 sums in another order: measured 2e-7 of the largest output.
RELATIVE_ERROR = 1e-6


def unequal(mask: str) -> SceneLayout:
    return SceneLayout.build(mask, text_tokens=(3, 2, 4), latent_frames=(2, 3, 1), tokens_per_frame=8)


def inputs_with_context(layout: SceneLayout, targets: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    latents_BFCHW, prompt_embeds_BLD, timesteps_BN = make_inputs(layout)
    context = [scene for scene in range(layout.num_scenes) if scene not in targets]
    timesteps_BN[:, context] = 0
    return latents_BFCHW, prompt_embeds_BLD, timesteps_BN


def kept_for(
    model: SceneTransformer, layout: SceneLayout, targets: tuple[int, ...], *inputs: Tensor
) -> ContextCache:
    context = keep_context(model, *inputs, layout=layout, targets=targets)
    assert context is not None
    return context


@pytest.mark.parametrize(
    ("mask", "targets", "kept", "run"),
    [
        ("causal", (2,), (0, 1), (2,)),
        ("causal", (1, 2), (0,), (1, 2)),
        # Nobody sees what comes later.
        ("causal", (1,), (0,), (1,)),
        ("causal", (0,), (), (0,)),
        # Scene 1 sees the target 0, and the target 2 sees scene 1.
        ("causal", (0, 2), (), (0, 1, 2)),
        # Scene 2 sees scene 1 alone, but scene 1 was made from scene 0.
        ("window:2", (2,), (0, 1), (2,)),
        ("window:1", (2,), (), (2,)),
        ("isolated", (0, 2), (), (0, 2)),
        ("mask2dit", (2,), (), (0, 1, 2)),
        ("anchor", (2,), (), (0, 1, 2)),
        ("full", (2,), (), (0, 1, 2)),
    ],
)
def test_a_scene_is_kept_when_nothing_it_was_made_from_is_denoised(mask, targets, kept, run):
    split = split_context(unequal(mask), targets)
    assert (split.kept, split.run) == (kept, run)


@torch.no_grad()
@pytest.mark.parametrize("has_rotary", [True, False])
@pytest.mark.parametrize("targets", [(2,), (1,), (0,), (1, 2)])
@pytest.mark.parametrize("mask", ["causal", "window:2", "isolated"])
def test_a_step_with_kept_context_equals_the_step_that_computes_it(mask, targets, has_rotary):
    model, layout = make_model(use_rotary_positional_embeddings=has_rotary), unequal(mask)
    latents_BFCHW, prompt_embeds_BLD, timesteps_BN = inputs_with_context(layout, targets)
    want = model(latents_BFCHW, prompt_embeds_BLD, timesteps_BN, layout=layout, targets=targets)
    context = kept_for(model, layout, targets, latents_BFCHW, prompt_embeds_BLD)
    got = model(latents_BFCHW, prompt_embeds_BLD, timesteps_BN, layout=layout, context=context)
    assert max_error(got, want) <= RELATIVE_ERROR * want.abs().max()


@torch.no_grad()
def test_kept_context_equals_diffusers_own_model_with_the_dense_causal_mask():
    # Diffusers' model has one timestep for all: 0, which is the context's.
    model, layout = make_model(), unequal("causal")
    latents_BFCHW, prompt_embeds_BLD, _ = make_inputs(layout)
    mask_LL = torch.from_numpy(layout.dense())
    timestep_B = torch.zeros(2, dtype=torch.long)
    want = stock_velocity(model, latents_BFCHW, prompt_embeds_BLD, timestep_B, mask_LL)[:, 5:]
    context = kept_for(model, layout, (2,), latents_BFCHW, prompt_embeds_BLD)
    timesteps_BN = torch.zeros(2, 3, dtype=torch.long)
    got = model(latents_BFCHW, prompt_embeds_BLD, timesteps_BN, layout=layout, context=context)
    assert max_error(got, want) <= RELATIVE_ERROR * want.abs().max()


@torch.no_grad()
def test_what_is_kept_depends_on_the_context_alone():
    model, layout = make_model(), unequal("causal")
    latents_BFCHW, prompt_embeds_BLD, _ = make_inputs(layout)
    before = kept_for(model, layout, (2,), latents_BFCHW, prompt_embeds_BLD)
    noisier, reworded = latents_BFCHW.clone(), prompt_embeds_BLD.clone()
    noisier[:, 5:] += 7
    reworded[:, 5:] -= 3
    for same in (kept_for(model, layout, (2,), noisier, reworded), before):
        for block, block_before in zip(same.blocks, before.blocks, strict=True):
            assert isinstance(block, KeptBlock)
            assert isinstance(block_before, KeptBlock)
            assert all(map(torch.equal, block.keys, block_before.keys))
            assert all(map(torch.equal, block.values, block_before.values))
    noisier[:, 0] += 7
    other = kept_for(model, layout, (2,), noisier, prompt_embeds_BLD).blocks[0]
    assert isinstance(other, KeptBlock)
    assert isinstance(before.blocks[0], KeptBlock)
    assert not torch.equal(other.keys[0], before.blocks[0].keys[0])


@torch.no_grad()
def test_kept_scenes_take_no_part_in_a_step_and_their_memory_is_counted():
    model, layout = make_model(), unequal("causal")
    latents_BFCHW, prompt_embeds_BLD, timesteps_BN = inputs_with_context(layout, (2,))
    context = kept_for(model, layout, (2,), latents_BFCHW, prompt_embeds_BLD)
    tokens: list[int] = []

    def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens.append(inputs[0].shape[1])

    for block in model.transformer_blocks:
        block.ff.register_forward_pre_hook(count)
    model(latents_BFCHW, prompt_embeds_BLD, timesteps_BN, layout=layout, context=context)
    assert tokens == [4 + 8, 8]
    # Blocks, keys and values, batch, context's video tokens, width, bytes.
    assert context.size_bytes == 2 * 2 * 2 * 40 * 32 * 4


@torch.no_grad()
def test_a_layout_whose_context_sees_the_targets_keeps_nothing():
    model, layout = make_model(), unequal("mask2dit")
    latents_BFCHW, prompt_embeds_BLD, _ = make_inputs(layout)
    assert keep_context(model, latents_BFCHW, prompt_embeds_BLD, layout=layout, targets=(2,)) is None


@torch.no_grad()
def test_context_of_another_layout_or_with_targets_of_its_own_is_refused():
    model, layout = make_model(), unequal("causal")
    inputs = inputs_with_context(layout, (2,))
    context = kept_for(model, layout, (2,), *inputs[:2])
    with pytest.raises(ValueError, match="context: kept for layout"):
        model(*inputs, layout=unequal("window:2"), context=context)
    with pytest.raises(ValueError, match=r"targets \[2\]: given together with context"):
        model(*inputs, layout=layout, targets=(2,), context=context)
    with pytest.raises(ValueError, match="context: kept for a batch of 2, got 1"):
        model(*(each[:1] for each in inputs), layout=layout, context=context)
    with pytest.raises(ValueError, match=r"targets \[3\]: give one or more of 0 to 2"):
        split_context(layout, (3,))
