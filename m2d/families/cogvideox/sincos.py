"""Additive sin-cos positions, for CogVideoX checkpoints without rotary embeddings (2B).

Owns only how one trained table covers a story: time is stretched over all scenes, as the official code does
for more than one scene. No released Mask2DiT checkpoint uses it.
"""

# F latent frames, H W token rows and columns, V video tokens, D width.

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_3d_sincos_pos_embed
from torch import Tensor


def sincos_positions(
    width: int,
    *,
    num_scenes: int,
    num_latent_frames: int,
    base_latent_frames: int,
    grid: tuple[int, int],
    scales: tuple[float, float],
    device: torch.device,
) -> Tensor:
    """Make positions_VD, float32, which are added to the video tokens.

    One scene gets diffusers' table for its own length; a story gets the table of the trained length,
    interpolated linearly in time to all its frames.

    Args:
        base_latent_frames: Latent frames of the clips that the model was trained on.
        grid: Tokens of one frame as (rows, columns).
        scales: Spatial and temporal interpolation scale from the transformer's config.
    """
    table_frames = num_latent_frames if num_scenes == 1 else base_latent_frames
    rows, columns = grid
    table_FXD: Tensor = get_3d_sincos_pos_embed(
        width, (columns, rows), table_frames, scales[0], scales[1], device=device, output_type="pt"
    ).float()
    if table_frames == num_latent_frames:
        return table_FXD.flatten(0, 1)
    table_XDF = table_FXD.permute(1, 2, 0)
    stretched_XDF = torch.nn.functional.interpolate(
        table_XDF, size=num_latent_frames, mode="linear", align_corners=False
    )
    return stretched_XDF.permute(2, 0, 1).flatten(0, 1)
