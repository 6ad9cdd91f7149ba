"""How a step asks the model: once, or once for each of guidance's two predictions, with context kept or not.

Owns which prompts go through which denoiser; what becomes of the answers is the loop's business.
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
    """One or both of guidance's predictions, as they pass through the model together."""

    denoiser: Denoiser
    prompts_BLD: Tensor


def model_passes(denoiser: Denoiser, request: DenoiseRequest) -> tuple[ModelPass, ...]:
    """The passes of a step; with guidance the negative prompts' predictions come first along B."""
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
    """Let each pass keep the context under its own prompts, where that can be done and is wanted.

    Args:
        passes: From `model_passes`.
        request: What is denoised.
        latents_BFCHW: All scenes' latents; only the context's are read.
    """
    if not request.keep_context or not request.conditioning.context:
        return tuple(passes)
    kept = tuple(_keeping(each, request, latents_BFCHW.to(request.dtype)) for each in passes)
    if context_bytes(kept):
        logger.info("context computed once: %.1f MB", context_bytes(kept) / 1e6)
    return kept


def context_bytes(passes: Sequence[ModelPass]) -> int:
    """Memory of the context that all passes keep."""
    denoisers = [each.denoiser for each in passes]
    return sum(each.context_bytes for each in denoisers if isinstance(each, ContextDenoiser))


def _keeping(of: ModelPass, request: DenoiseRequest, latents_BFCHW: Tensor) -> ModelPass:
    if not isinstance(of.denoiser, ContextDenoiser):
        return of
    latents_BFCHW = latents_BFCHW.expand(len(of.prompts_BLD), -1, -1, -1, -1)
    targets = request.conditioning.targets
    return of._replace(denoiser=of.denoiser.keep_context(latents_BFCHW, of.prompts_BLD, targets=targets))
