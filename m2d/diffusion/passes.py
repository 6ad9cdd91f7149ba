"""A step's calls of the model: one, or one for each of guidance's two predictions; context may be kept.

Owns which prompts go through which denoiser; the denoising loop combines the predictions.
"""

# B batch, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from m2d.diffusion.denoiser import ContextDenoiser, Denoiser
from m2d.diffusion.request import DenoiseRequest

logger = logging.getLogger(__name__)


class ModelPass(NamedTuple):
    """One call of the model in a step: one of guidance's two predictions, or both as a batch."""

    denoiser: Denoiser
    prompts_BLD: Tensor

    def velocity(self, latents_BFCHW: Tensor, timesteps_BN: Tensor, *, targets: tuple[int, ...]) -> Tensor:
        """Predict the velocity of `targets` under each prompt, float32, the scenes' frames concatenated.

        Latents and timesteps are those of all scenes, B = 1.
        """
        batch, layout = len(self.prompts_BLD), self.denoiser.layout
        velocity_BFCHW = self.denoiser.predict(
            latents_BFCHW.expand(batch, -1, -1, -1, -1), self.prompts_BLD, timesteps_BN.expand(batch, -1)
        ).float()
        lengths = [layout.latent_frames[scene] for scene in self.denoiser.targets]
        parts = dict(zip(self.denoiser.targets, velocity_BFCHW.split_with_sizes(lengths, dim=1), strict=True))
        return torch.cat([parts[scene] for scene in targets], dim=1)


def model_passes(denoiser: Denoiser, request: DenoiseRequest) -> tuple[ModelPass, ...]:
    """Return the passes of a step; with guidance, the negative prompts come first along B."""
    cond_BLD = request.prompt_embeds_BLD.to(request.device, request.dtype)
    if not request.is_guided or request.negative_embeds_BLD is None:
        return (ModelPass(denoiser, cond_BLD),)
    uncond_BLD = request.negative_embeds_BLD.to(request.device, request.dtype)
    if request.guidance.mode == "sequential":
        return ModelPass(denoiser, uncond_BLD), ModelPass(denoiser, cond_BLD)
    return (ModelPass(denoiser, torch.cat([uncond_BLD, cond_BLD])),)


def keep_context(
    passes: Sequence[ModelPass], request: DenoiseRequest, latents_BFCHW: Tensor
) -> tuple[ModelPass, ...]:
    """Compute the context once for each pass, where the request wants that and the denoiser can."""
    if not request.keep_context or not request.conditioning.context:
        return tuple(passes)
    kept = tuple(_keeping(each, request, latents_BFCHW.to(request.dtype)) for each in passes)
    if context_bytes(kept):
        logger.info("context computed once: %.1f MB", context_bytes(kept) / 1e6)
    return kept


def context_bytes(passes: Sequence[ModelPass]) -> int:
    """Return the total size of the context that the passes keep."""
    denoisers = [each.denoiser for each in passes]
    return sum(each.context_bytes for each in denoisers if isinstance(each, ContextDenoiser))


def _keeping(of: ModelPass, request: DenoiseRequest, latents_BFCHW: Tensor) -> ModelPass:
    if not isinstance(of.denoiser, ContextDenoiser):
        return of
    latents_BFCHW = latents_BFCHW.expand(len(of.prompts_BLD), -1, -1, -1, -1)
    targets = request.conditioning.targets
    return of._replace(denoiser=of.denoiser.keep_context(latents_BFCHW, of.prompts_BLD, targets=targets))
