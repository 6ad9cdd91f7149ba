"""Frames to latents and back, one scene at a time, through CogVideoX's causal 3-D VAE.

Owns scaling, the value range of pixels and whole scenes' boundaries; never joins scenes, whose first frames
each need a latent frame of their own.
"""

# B clips, P pixel frames, F latent frames, C channels, H W height and width (of pixels or of latents).

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2d.model.convolution import OneDnnConvolutions

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

# Latent frames that diffusers' VAE decodes at once, after a first group of two or three.
_DECODED_TOGETHER = 2


@torch.no_grad()
def encode_scenes(codec: AutoencoderKLCogVideoX, frames_BPCHW: Tensor) -> Tensor:
    """Encode clips of equal size at once.

    Args:
        codec: Computes in its own dtype, on its own device.
        frames_BPCHW: RGB in [-1, 1]; P is `T*k + 1`, H and W multiples of the spatial compression.

    Returns:
        latents_BFCHW: The posterior's mean, scaled for the transformer, in the codec's dtype and device.

    Raises:
        ValueError: Sizes that the codec cannot encode.
    """
    _check_frames(codec, frames_BPCHW)
    video_BCPHW = frames_BPCHW.to(device=codec.device, dtype=codec.dtype).transpose(1, 2)
    with OneDnnConvolutions():
        mean_BCFHW: Tensor = codec.encode(video_BCPHW).latent_dist.mode()
    return (mean_BCFHW.transpose(1, 2) - _shift(codec)) * float(codec.config.scaling_factor)


def encode_scene(codec: AutoencoderKLCogVideoX, frames_PCHW: Tensor) -> Tensor:
    """Encode one scene: latents_FCHW of its frames in [-1, 1]. See `encode_scenes`."""
    return encode_scenes(codec, frames_PCHW[None])[0]


@torch.no_grad()
def decode_scene(codec: AutoencoderKLCogVideoX, latents_FCHW: Tensor) -> npt.NDArray[np.uint8]:
    """Decode one scene.

    Args:
        codec: Computes in its own dtype, on its own device.
        latents_FCHW: As `encode_scene` returns them.

    Returns:
        frames_PHWC: RGB, rounded to the nearest of 256 values.
    """
    latents = unscaled(codec, latents_FCHW.to(device=codec.device, dtype=codec.dtype))
    num_latent_frames = latents.shape[0]
    if num_latent_frames > 1 and num_latent_frames % _DECODED_TOGETHER == 0:
        # The VAE takes an even number for the middle of a clip and multiplies its first frame, too. One frame
        # more makes it odd. The frames that it decodes to are cut off below; the decoder is causal, so the
        # others feel it only in the statistics of the last group's norms.
        latents = torch.cat([latents, latents[-1:]])
    with OneDnnConvolutions():
        decoded_BCPHW = codec.decode(latents.transpose(0, 1)[None]).sample
    num_frames = (num_latent_frames - 1) * int(codec.config.temporal_compression_ratio) + 1
    return to_pixels(decoded_BCPHW[0, :, :num_frames].transpose(0, 1))


def unscaled(codec: AutoencoderKLCogVideoX, latents: Tensor) -> Tensor:
    """Turn the transformer's latents, of any shape, into the codec's own."""
    return latents / float(codec.config.scaling_factor) + _shift(codec)


def to_pixels(frames_PCHW: Tensor) -> npt.NDArray[np.uint8]:
    """Turn frames in [-1, 1] into frames_PHWC of 0 to 255, rounded; values outside are clamped."""
    scaled = (frames_PCHW.float().clamp(-1, 1) + 1) * 127.5
    pixels: npt.NDArray[np.uint8] = (
        scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    )
    return pixels


def from_pixels(frames_PHWC: npt.NDArray[np.uint8]) -> Tensor:
    """Turn frames of 0 to 255 into frames_PCHW in [-1, 1], float32."""
    frames = torch.from_numpy(np.ascontiguousarray(frames_PHWC)).permute(0, 3, 1, 2)
    return frames.float() / 127.5 - 1


def spatial_compression(codec: AutoencoderKLCogVideoX) -> int:
    """Pixels per latent along height and width: every level but the last halves them."""
    return int(2 ** (len(codec.config.block_out_channels) - 1))


def _shift(codec: AutoencoderKLCogVideoX) -> float:
    # `invert_scale_latents` in the same config is about image conditions alone, which m2d has not.
    return float(codec.config.shift_factor or 0.0)


def _check_frames(codec: AutoencoderKLCogVideoX, frames_BPCHW: Tensor) -> None:
    _, num_frames, channels, height, width = frames_BPCHW.shape
    spatial, temporal = spatial_compression(codec), int(codec.config.temporal_compression_ratio)
    if channels != codec.config.in_channels:
        raise ValueError(f"frames have {channels} channels; the codec takes {codec.config.in_channels}")
    if num_frames < 1 or (num_frames - 1) % temporal:
        raise ValueError(f"num_frames: {num_frames} is not {temporal}k+1")
    if height % spatial or width % spatial:
        raise ValueError(f"height and width: {height} x {width} are not multiples of {spatial}")
