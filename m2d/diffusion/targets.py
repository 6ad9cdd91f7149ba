"""The scenes that a request denoises: their frames, their steppers and their given first frames."""

# B batch, F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2d.diffusion.request import DenoiseRequest
from m2d.diffusion.stepper import SceneStepper


class FirstFrame(NamedTuple):
    """The latent frames of a given first token and the noise that they carry until the last step."""

    x0_BFCHW: Tensor
    noise_BFCHW: Tensor


class Target(NamedTuple):
    """A scene to denoise.

    Attributes:
        state_prefix: Begins the names of its scheduler's tensors in a `DenoiseState`.
        frames: Its latent frames in the story.
        part: Its latent frames in the targets' velocity.
        first_frame: Its first latent frame where the request gives one.
    """

    stepper: SceneStepper
    state_prefix: str
    frames: slice
    part: slice
    first_frame: FirstFrame | None


def targets_of(scheduler: Any, request: DenoiseRequest) -> list[Target]:
    """Return the scenes that a request denoises; each copies `scheduler`, whose timesteps are set."""
    targets: list[Target] = []
    for scene in request.conditioning.targets:
        stepper = SceneStepper(scheduler, seed=request.scene_seeds[scene], scene=request.numbers[scene])
        frames = request.layout.frame_span(scene)
        start = targets[-1].part.stop if targets else 0
        first_frame = None
        if scene in request.first_frames:
            noise_BFCHW = stepper.noise((1, len(frames), *request.latent_shape), device=request.device)
            x0_FCHW = request.first_frames[scene].to(request.device, torch.float32)
            first_frame = FirstFrame(x0_FCHW[None], noise_BFCHW[:, : len(x0_FCHW)])
        part = slice(start, start + len(frames))
        targets.append(Target(stepper, f"scene_{scene:03d}.", frames.as_slice, part, first_frame))
    return targets
