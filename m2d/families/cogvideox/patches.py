"""Latents to the transformer's tokens and back: a token spans a square of one latent frame, or of several.

Owns the order of the values in a token, which is that of diffusers' `CogVideoXPatchEmbed` (1.0 and 1.5).
"""

# B batch, F latent frames, C latent channels, H W latent size, V video tokens, X values of a token.

from __future__ import annotations

import torch
from torch import Tensor


def patchify(latents_BFCHW: Tensor, *, patch: int, patch_t: int) -> Tensor:
    """Cut latents into tokens_BVX; a token's values are (C, frame, row, column)."""
    # B F/t t C H/p p W/p p
    parts = torch.unflatten(latents_BFCHW, 1, (-1, patch_t))
    parts = torch.unflatten(torch.unflatten(parts, 5, (-1, patch)), 4, (-1, patch))
    return parts.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)


def unpatchify(tokens_BVX: Tensor, *, grid: tuple[int, int], patch: int, patch_t: int) -> Tensor:
    """Put tokens together to latents_BFCHW; the inverse of `patchify`.

    Args:
        grid: Tokens of one frame as (rows, columns).
    """
    # B F/t H/p W/p C t p p
    tiles = torch.unflatten(torch.unflatten(tokens_BVX, 2, (-1, patch_t, patch, patch)), 1, (-1, *grid))
    return tiles.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)
