"""The stock diffusers pipeline of a model folder, fed with the noise that m2d draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler, DiffusionPipeline
from torch import Tensor

from m2d.diffusion.noise import draw_noise, generator


class SameNoise(CogVideoXDPMScheduler):
    """The DPM scheduler with m2d's noise of every step."""

    steps = 0

    def step(self, *args: Any, generator: Any = None, **more: Any) -> Any:
        del generator
        stream = step_noise(self.steps)
        self.steps += 1
        return super().step(*args, generator=stream, **more)


def step_noise(step: int) -> torch.Generator:
    return generator(0, purpose="sampler noise", step=step, scene=0)


def stock_latents(folder: Path, scheduler: str, shape: tuple[int, ...], **call: Any) -> Tensor:
    """Return the final latents_FCHW of one scene of seed 0."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "dpm":
        pipe.scheduler = SameNoise.from_config(pipe.scheduler.config)
    noise = draw_noise((1, *shape), seed=0, purpose="initial noise")
    made: Tensor = pipe(
        latents=noise,
        output_type="latent",
        max_sequence_length=pipe.transformer.config.max_text_seq_length,
        **call,
    ).frames
    return made[0]


def relative_rms(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, as a share of the expected values' own."""
    return float((found - expected).norm() / expected.norm())
