"""diffusers' own CogVideoX beside a scene transformer with the same weights.

Makes one from the other, and owns the parts of the forward pass that other baselines share.
"""

# B batch, F latent frames, C latent channels, H W latent size, L tokens, V video tokens, D width.

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor

from m2d.model.scene_model import SceneModel

Rotary = tuple[Tensor, Tensor]


def stock_model(transformer: SceneModel) -> CogVideoXTransformer3DModel:
    """Make a stock model that shares the weights of `transformer` (no copy)."""
    with torch.device("meta"):
        stock = CogVideoXTransformer3DModel.from_config(transformer.config)
    stock.load_state_dict(transformer.state_dict(), strict=True, assign=True)
    # A buffer outside the state dict would stay on the meta device.
    assert not [
        name
        for name, buffer in stock.named_buffers()
        if buffer.is_meta != transformer.proj_out.weight.is_meta
    ]
    return stock.eval().requires_grad_(False)


def stock_rotary(stock: CogVideoXTransformer3DModel, latents_BFCHW: Tensor) -> Rotary | None:
    """Make the rotary table as the stock pipeline does; frame positions continue across scenes."""
    config = stock.config
    if not config.use_rotary_positional_embeddings:
        return None
    frames, _, height, width = latents_BFCHW.shape[1:]
    patch = config.patch_size
    return _rotary(
        config.attention_head_dim,
        frames,
        (height // patch, width // patch),
        (config.sample_height // patch, config.sample_width // patch),
        latents_BFCHW.device,
    )


@lru_cache(maxsize=4)
def _rotary(
    head_dim: int, frames: int, grid: tuple[int, int], base_grid: tuple[int, int], device: torch.device
) -> Rotary:
    crops = get_resize_crop_region_for_grid(grid, base_grid[1], base_grid[0])
    cos, sin = get_3d_rotary_pos_embed(head_dim, crops, grid, frames)
    return cos.to(device), sin.to(device)


def unpatchify(stock: CogVideoXTransformer3DModel, video_BVD: Tensor, latents_BFCHW: Tensor) -> Tensor:
    """Turn the last tokens into latents, as the stock model does."""
    batch, frames, _, height, width = latents_BFCHW.shape
    patch = stock.config.patch_size
    tiles = stock.proj_out(video_BVD).reshape(
        batch, frames, height // patch, width // patch, -1, patch, patch
    )
    velocity_BFCHW: Tensor = tiles.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
    return velocity_BFCHW
