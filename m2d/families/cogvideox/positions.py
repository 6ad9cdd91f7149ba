"""Additive positions: sin-cos for checkpoints without rotary embeddings (2B), learned for 5B-I2V.

Owns only how one trained table covers a story. A sin-cos table is stretched in time over all scenes, as the
official code does for more than one scene; a learned table, which comes with a rotary one, holds for each
scene. No released Mask2DiT checkpoint uses either.
"""

# F latent frames, H W token rows and columns, L text tokens, V video tokens, D width.

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def learned_positions(
    table_LD: Tensor, *, num_text: int, frames: Sequence[int], trained: int, other: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Make text_LD and video_VD, which are added to the tokens of all scenes.

    Args:
        table_LD: The learned table of one scene: text, then video.
        num_text: Tokens of a prompt.
        frames: Latent frames of each scene.
        trained: Latent frames of the table.
        other: Latent frames to the video_VD of a scene of another length, whose text has no positions then;
            so does diffusers.
    """
    text, video = table_LD[:num_text], table_LD[num_text:]
    parts = [(text, video) if each == trained else (torch.zeros_like(text), other(each)) for each in frames]
    texts, videos = zip(*parts, strict=True)
    return torch.cat(texts), torch.cat(videos)
