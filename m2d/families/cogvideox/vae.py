"""Frames to latents and back, one scene at a time, through CogVideoX's causal 3-D VAE.

Owns scaling and the boundaries of scenes: scenes are never joined, because the first frame of each needs a
latent frame of its own.
"""

# B clips, P pixel frames, F latent frames, C channels, H W height and width (of pixels or of latents).

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2d.families.cogvideox.vae_memory import decoding
from m2d.families.family import DecodeStrategy
from m2d.model.convolution import OneDnnConvolutions
from m2d.model.pixels import from_pixels, to_pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

# Latent frames that diffusers' VAE decodes at once, after a first group of two or three.
_DECODED_TOGETHER = 2


def unscaled(vae: AutoencoderKLCogVideoX, latents: Tensor) -> Tensor:
    """Turn the transformer's latents, of any shape, into the VAE's own."""
    return latents / float(vae.config.scaling_factor) + _shift(vae)


def spatial_compression(vae: AutoencoderKLCogVideoX) -> int:
    """Pixels per latent along height and width: every level but the last halves them."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _shift(vae: AutoencoderKLCogVideoX) -> float:
    return float(vae.config.shift_factor or 0.0)


class CogVideoXVae:
    """CogVideoX's VAE as the pipeline uses it; see `SceneVae`. It computes in its own dtype."""

    def __init__(self, module: AutoencoderKLCogVideoX, *, frames_per_token: int = 1) -> None:
        """Take the network.

        Args:
            frames_per_token: Latent frames per token of the transformer. A scene's latent frames are an odd
                number; copies of the first fill the first token, as in the training of CogVideoX 1.5, and are
                not decoded.
        """
        self.module = module
        self._num_fill = frames_per_token - 1

    @property
    def device(self) -> torch.device:
        device: torch.device = self.module.device
        return device

    @property
    def latent_channels(self) -> int:
        return int(self.module.config.latent_channels)

    @property
    def compression(self) -> tuple[int, int]:
        return spatial_compression(self.module), int(self.module.config.temporal_compression_ratio)

    @torch.no_grad()
    def encode_clips(self, frames_BPCHW: Tensor) -> Tensor:
        """Encode clips of equal size, RGB in [-1, 1], at once.

        Returns:
            latents_BFCHW: The posterior's mean, scaled for the transformer, in the VAE's dtype and device.

        Raises:
            ValueError: Sizes that the VAE cannot encode.
        """
        self._check_frames(frames_BPCHW)
        vae = self.module
        video_BCPHW = frames_BPCHW.to(device=vae.device, dtype=vae.dtype).transpose(1, 2)
        with OneDnnConvolutions():
            mean_BCFHW: Tensor = vae.encode(video_BCPHW).latent_dist.mode()
        latents_BFCHW = (mean_BCFHW.transpose(1, 2) - _shift(vae)) * float(vae.config.scaling_factor)
        return torch.cat([latents_BFCHW[:, :1]] * self._num_fill + [latents_BFCHW], dim=1)

    def encode_image(self, frame_1HWC: npt.NDArray[np.uint8]) -> Tensor:
        """Encode a first frame to latents_1CHW in the scale that image-to-video models were trained with."""
        latents_1CHW = self.encode(frame_1HWC)[-1:]
        if not self.module.config.invert_scale_latents:
            return latents_1CHW
        # CogVideoX 1.5 was trained with images divided by the factor that videos are multiplied by.
        return latents_1CHW / float(self.module.config.scaling_factor) ** 2

    def encode(self, frames_PHWC: npt.NDArray[np.uint8]) -> Tensor:
        return self.encode_clips(from_pixels(frames_PHWC)[None])[0]

    @torch.no_grad()
    def decode(self, latents_FCHW: Tensor) -> npt.NDArray[np.uint8]:
        """Decode one scene's latents to frames_PHWC, rounded to the nearest of 256 values."""
        vae = self.module
        latents = unscaled(vae, latents_FCHW[self._num_fill :].to(device=vae.device, dtype=vae.dtype))
        num_latent_frames = latents.shape[0]
        if num_latent_frames > 1 and num_latent_frames % _DECODED_TOGETHER == 0:
            # The VAE takes an even number for the middle of a clip and multiplies its first frame, too. One
            # frame more makes it odd. The frames that it decodes to are cut off below; the decoder is causal,
            # so the others feel it only in the statistics of the last group's norms.
            latents = torch.cat([latents, latents[-1:]])
        with OneDnnConvolutions():
            decoded_BCPHW = vae.decode(latents.transpose(0, 1)[None]).sample
        num_frames = (num_latent_frames - 1) * self.compression[1] + 1
        return to_pixels(decoded_BCPHW[0, :, :num_frames].transpose(0, 1))

    def decoding(self, strategy: DecodeStrategy, latents_FCHW: Tensor) -> AbstractContextManager[None]:
        return decoding(self.module, strategy, latents_FCHW)

    def _check_frames(self, frames_BPCHW: Tensor) -> None:
        _, num_frames, channels, height, width = frames_BPCHW.shape
        (spatial, temporal), expected = self.compression, self.module.config.in_channels
        if channels != expected:
            raise ValueError(f"frames have {channels} channels; the VAE takes {expected}")
        if num_frames < 1 or (num_frames - 1) % temporal:
            raise ValueError(f"num_frames: {num_frames} is not {temporal}k+1")
        if height % spatial or width % spatial:
            raise ValueError(f"height and width: {height} x {width} are not multiples of {spatial}")
