"""Adaptive norms and gates: each scene's tokens get the shift, scale and gate of the scene's timestep.

Owns the arithmetic on token rows; the block plan assigns rows to scenes.
"""

# B batch, N scenes, X tokens of one scene, L tokens, T text tokens, V video tokens, D width,
# E width of the timestep embedding.

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.normalization import CogVideoXLayerNormZero
from torch import Tensor, nn

from m2d.model.block_plan import BlockPlan
from m2d.model.scene_lora import RowLoras, apply_linear


class Modulation(NamedTuple):
    """adaLN's output for the timesteps, for text or for video, a row per scene."""

    shift_BND: Tensor
    scale_BND: Tensor
    gate_BND: Tensor


def modulations(
    norm: CogVideoXLayerNormZero, temb_BNE: Tensor, loras: RowLoras
) -> tuple[Modulation, Modulation]:
    """Return the modulation of text and of video; the layer's output has that of video first."""
    chunks = apply_linear(norm.linear, temb_BNE, loras).chunk(6, dim=-1)
    return Modulation(*chunks[3:]), Modulation(*chunks[:3])


def normalize_both(
    norm: nn.Module, text_BTD: Tensor, video_BVD: Tensor, text: Modulation, video: Modulation, plan: BlockPlan
) -> Tensor:
    """Normalize and modulate text and video, and concatenate them in this order."""
    normed_text = modulate(norm(text_BTD), text.shift_BND, text.scale_BND, plan.text_sizes)
    normed_video = modulate(norm(video_BVD), video.shift_BND, video.scale_BND, plan.video_tokens)
    return torch.cat([normed_text, normed_video], dim=1)


def gate_both(
    text_BTD: Tensor,
    video_BVD: Tensor,
    update_BLD: Tensor,
    text: Modulation,
    video: Modulation,
    plan: BlockPlan,
) -> tuple[Tensor, Tensor]:
    """Add an update of all tokens to text and to video, each multiplied by its gate."""
    update_text, update_video = update_BLD.split_with_sizes((text_BTD.shape[1], video_BVD.shape[1]), dim=1)
    return (
        gate(text_BTD, update_text, text.gate_BND, plan.text_sizes),
        gate(video_BVD, update_video, video.gate_BND, plan.video_tokens),
    )


def modulate(tokens_BLD: Tensor, shift_BND: Tensor, scale_BND: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return `shift + tokens * (1 + scale)`, with the row of each token's scene."""
    factor_BND = 1 + scale_BND
    if len(set(lengths)) == 1:
        tokens_BNXD = torch.unflatten(tokens_BLD, 1, (len(lengths), -1))
        return torch.addcmul(shift_BND[:, :, None], tokens_BNXD, factor_BND[:, :, None]).flatten(1, 2)
    scenes = zip(
        tokens_BLD.split_with_sizes(lengths, 1),
        shift_BND.chunk(len(lengths), 1),
        factor_BND.chunk(len(lengths), 1),
        strict=True,
    )
    return torch.cat([torch.addcmul(shift, tokens, factor) for tokens, shift, factor in scenes], dim=1)


def gate(tokens_BLD: Tensor, update_BLD: Tensor, gate_BND: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return `tokens + update * gate`, with the row of each token's scene."""
    if len(set(lengths)) == 1:
        tokens_BNXD = torch.unflatten(tokens_BLD, 1, (len(lengths), -1))
        update_BNXD = torch.unflatten(update_BLD, 1, (len(lengths), -1))
        return torch.addcmul(tokens_BNXD, update_BNXD, gate_BND[:, :, None]).flatten(1, 2)
    scenes = zip(
        tokens_BLD.split_with_sizes(lengths, 1),
        update_BLD.split_with_sizes(lengths, 1),
        gate_BND.chunk(len(lengths), 1),
        strict=True,
    )
    return torch.cat([torch.addcmul(tokens, update, gate) for tokens, update, gate in scenes], dim=1)
