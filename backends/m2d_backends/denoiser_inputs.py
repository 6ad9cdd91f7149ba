"""The inputs of every denoiser, by name and in order; imports no model."""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenoiserInputs(NamedTuple):
    """The inputs of a denoiser, in the order in which every exported graph takes them."""

    latents_BFCHW: Tensor
    prompt_embeds_BLD: Tensor
    timesteps_BN: Tensor
