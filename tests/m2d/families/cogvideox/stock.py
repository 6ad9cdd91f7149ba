"""The stock diffusers pipeline of a model folder, fed with the noise that m2d draws, and such folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, DiffusionPipeline
from torch import Tensor

from m2d.diffusion.noise import draw_noise, generator
from m2d.families.cogvideox.random_folder import write_random_folder
from m2d.families.registry import known_model


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


FULL_WIDTH = "-full-width"
"""Ends the names of folders of two layers of the published width."""
# A table of learned positions holds for one size: 48x80 pixels, 9 frames.
_SAMPLE = {"sample_height": 6, "sample_width": 10, "sample_frames": 9}


def both_widths(names: Iterable[str]) -> list[Any]:
    """Return the names of tiny folders, and of folders of full width, which take minutes."""
    tiny = list(names)
    return [*tiny, *(pytest.param(f"{name}{FULL_WIDTH}", marks=pytest.mark.long) for name in tiny)]


def write_model(folder: Path) -> Path:
    """Write a folder with random weights, of the published model and the width that its name says."""
    is_tiny = not folder.name.endswith(FULL_WIDTH)
    known = known_model(folder.name.removesuffix(FULL_WIDTH))
    assert known is not None
    folder.mkdir(parents=True)
    transformer = dict(known.transformer)
    if not transformer.get("patch_size_t"):
        transformer |= _SAMPLE
    write_random_folder(folder, replace(known, transformer=transformer), num_layers=2, is_tiny=is_tiny)
    return folder


def stock_latents(folder: Path, scheduler: str, shape: tuple[int, ...], **call: Any) -> Tensor:
    """Return the final latents_FCHW of one scene of seed 0."""
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
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
