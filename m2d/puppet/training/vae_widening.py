"""Widen a VAE by copying channels: it computes the same function and has more weights to train.

Each channel is repeated, and the weights of the layers that read it are split among its copies (Net2Net,
https://arxiv.org/abs/1511.05641, section 2.2). Copies stay in the group of their original, so the statistics
of group norms do not change.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from m2d.errors import InputError

_DECODER = "decoder."


def widened(
    vae: AutoencoderKLCogVideoX, block_out_channels: tuple[int, ...], *, draw: torch.Generator | None = None
) -> AutoencoderKLCogVideoX:
    """Return a wider VAE with the same latents and the same pictures, up to rounding.

    Args:
        block_out_channels: Channels per level, each a multiple of the VAE's.
        draw: Splits the decoder's weights unevenly among copies, so that training moves them apart. Without
            it, and always in the encoder, they are split evenly.

    Raises:
        InputError: A level's channels are no multiple of the VAE's.
    """
    before = tuple(vae.config.block_out_channels)
    asked = f"block_out_channels: got {list(block_out_channels)}"
    pairs = zip(block_out_channels, before, strict=False)
    if len(before) != len(block_out_channels) or any(new % old for new, old in pairs):
        raise InputError(f"{asked}; use multiples of {list(before)}, the VAE's")
    wide = AutoencoderKLCogVideoX.from_config({**vae.config, "block_out_channels": block_out_channels})
    targets, narrow = wide.state_dict(), vae.state_dict()
    if not narrow.keys() <= targets.keys():
        # Between levels of equal channels there is no layer for the weights of a learned shortcut.
        raise InputError(f"{asked}; levels that differ in {list(before)}, the VAE's, cannot become equal")
    wide.load_state_dict(
        {
            name: _widened(
                narrow[name] if name in narrow else _identity(narrow, name),
                target.shape,
                draw=draw if name.startswith(_DECODER) else None,
            )
            for name, target in targets.items()
        }
    )
    return wide


def decoder_channels(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return `block_out_channels` of a decoder's weights."""
    suffix = ".resnets.0.conv1.conv.weight"
    levels = sum(name.startswith("decoder.up_blocks.") and name.endswith(suffix) for name in weights)
    # The decoder runs from the last level to the first one.
    return tuple(weights[f"decoder.up_blocks.{level}{suffix}"].shape[0] for level in reversed(range(levels)))


def _identity(narrow: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a shortcut's weights that copy its input: levels of equal channels have no shortcut."""
    block, _, kind = name.rpartition(".conv_shortcut.")
    channels = narrow[f"{block}.conv1.conv.weight"].shape[0]
    return torch.eye(channels)[:, :, None, None, None] if kind == "weight" else torch.zeros(channels)


def _widened(weight: Tensor, shape: torch.Size, *, draw: torch.Generator | None) -> Tensor:
    copies = [new // old for new, old in zip(shape[:2], weight.shape[:2], strict=True)]
    wide = weight.repeat_interleave(copies[0], dim=0)
    if len(copies) < 2 or copies[1] == 1:
        return wide
    shares = torch.full((*wide.shape[:2], copies[1]), 1.0 / copies[1])
    if draw is not None:
        noise = torch.randn(shares.shape, generator=draw) / copies[1]
        shares += noise - noise.mean(-1, keepdim=True)
    split = wide[:, :, None] * shares.view(*shares.shape, *[1] * (wide.ndim - 2))
    return split.flatten(1, 2)
