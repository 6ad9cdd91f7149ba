"""The only denoising loop: generation, extension and re-rolling differ by their conditioning alone.

Owns the order of things (scale, predict, guide, step) and which latents change; how a scheduler steps is in
`stepper.py`, and running the model belongs to a backend.
"""

# B batch, N scenes, F latent frames (all scenes together), C latent channels, H W latent height and width,
# L text tokens, D width. B is 1: one story at a time; guidance doubles it inside `_predict`.

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2d.diffusion.denoiser import Denoiser
from m2d.diffusion.passes import ModelPass, context_bytes, keep_context, model_passes
from m2d.diffusion.report import DenoiseReport
from m2d.diffusion.request import DenoiseRequest
from m2d.diffusion.schedulers import check_scheduler, set_timesteps
from m2d.diffusion.step_cache import SPEED_RULES, StepCache
from m2d.diffusion.stepper import SceneStepper
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import BackendError, LayoutMismatch
from m2d.layout import SceneLayout

__all__ = ["DenoiseRequest", "DenoiseState", "StepEvent", "denoise"]

_STEP_CACHE = "step_cache."


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseState:
    """An unfinished run: with it, the same request gives the same bits as a run that was never interrupted.

    Attributes:
        steps_done: Steps finished.
        tensors: The latents, and what the scenes' schedulers remember, by name. No randomness is kept: every
            draw is named by its seed and step.
    """

    steps_done: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEvent:
    """What `on_step` gets after every step.

    Attributes:
        step: Steps finished, from 1.
        total: Steps in all.
        timestep: The training timestep this step started from, 0 to 999.
        x0: Call it for the current estimate of all scenes' clean latents, float32 BFCHW: the material of a
            preview. It costs a copy of the latents, so call it only when it is shown.
        state: Call it for what a journal has to keep to continue after this step.
    """

    step: int
    total: int
    timestep: int
    x0: Callable[[], Tensor] = field(repr=False)
    state: Callable[[], DenoiseState] = field(repr=False)


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    scheduler: Any,
    request: DenoiseRequest,
    *,
    on_step: Callable[[StepEvent], None] | None = None,
    resume: DenoiseState | None = None,
    on_report: Callable[[DenoiseReport], None] | None = None,
) -> Tensor:
    """Denoise the target scenes of a story.

    Args:
        denoiser: The model, prepared for the request's layout and for at least its target scenes.
        scheduler: From `scheduler_from_config`. It is copied and left as it is.
        request: What to denoise.
        on_step: Called after every step; what it raises ends the run.
        resume: Continue here instead of at step 1. It must come from the same request and scheduler.
        on_report: Called once, after the last step.

    Returns:
        Clean latents of all scenes, float32 (1, F, C, H, W) on the request's device. Context scenes are the
        given ones bit for bit.

    Raises:
        SchedulerError: The scheduler would sample wrongly, or cannot take that many steps.
        LayoutMismatch: The denoiser was prepared for another layout or for other scenes.
        BackendError: The model predicted something that is not finite.
        ValueError: A state that belongs to another request.
    """
    _check_denoiser(denoiser, request)
    check_scheduler(scheduler)
    run = _Run(denoiser, scheduler, request)
    if resume is not None:
        run.restore(resume)
    latents_BFCHW = run.latents_after_all_steps(on_step)
    if on_report is not None:
        on_report(run.report())
    return latents_BFCHW


class _FirstFrame(NamedTuple):
    """A latent frame to keep, and the noise under which it is kept; F is 1."""

    x0_BFCHW: Tensor
    noise_BFCHW: Tensor


class _Run:
    """One call of `denoise`: the story's latents and a stepper for each target scene."""

    def __init__(self, denoiser: Denoiser, scheduler: Any, request: DenoiseRequest) -> None:
        prepared = _copy_with_timesteps(scheduler, request.num_inference_steps)
        self._denoiser = denoiser
        self._request = request
        self._timesteps = [int(timestep) for timestep in prepared.timesteps]
        self._schedule = VelocitySchedule.from_scheduler(prepared).to(request.device)
        self._steppers = {
            scene: SceneStepper(prepared, seed=request.scene_seeds[scene], scene=request.numbers[scene])
            for scene in request.conditioning.targets
        }
        self._first_frames = {scene: self._first_frame(scene) for scene in request.first_frames}
        self._latents_BFCHW = self._initial_latents()
        self._steps_done = 0
        self._passes: tuple[ModelPass, ...] = ()
        rule = SPEED_RULES[request.speed]
        self._step_cache = None if rule is None else StepCache(rule, self._schedule)

    def restore(self, state: DenoiseState) -> None:
        latents_BFCHW = state.tensors.get("latents_BFCHW")
        if latents_BFCHW is None or latents_BFCHW.shape != self._latents_BFCHW.shape:
            raise ValueError(
                f"resume: latents of shape {None if latents_BFCHW is None else tuple(latents_BFCHW.shape)}, "
                f"the request has {tuple(self._latents_BFCHW.shape)}"
            )
        if not 0 <= state.steps_done <= len(self._timesteps):
            raise ValueError(f"resume: {state.steps_done} steps done, the request has {len(self._timesteps)}")
        device = self._request.device
        self._latents_BFCHW = latents_BFCHW.to(device, copy=True)
        self._steps_done = state.steps_done
        for scene, stepper in self._steppers.items():
            stepper.restore(_named(state.tensors, f"scene_{scene:03d}.", device=device))
        if self._step_cache is not None:
            self._step_cache.restore(_named(state.tensors, _STEP_CACHE, device=device))

    def latents_after_all_steps(self, on_step: Callable[[StepEvent], None] | None) -> Tensor:
        total = len(self._timesteps)
        if self._steps_done < total:
            self._passes = keep_context(
                model_passes(self._denoiser, self._request), self._request, self._latents_BFCHW
            )
        for index in range(self._steps_done, total):
            timestep = self._timesteps[index]
            input_BFCHW = self._model_input(index)
            velocity_BFCHW = self._velocity(input_BFCHW, timestep, is_last=index + 1 == total)
            if not torch.isfinite(velocity_BFCHW).all():
                raise BackendError(
                    f"step {index + 1} of {total}: the predicted velocity is not finite in "
                    f"{self._request.dtype}; use bfloat16 or float32, and check the model folder's weights"
                )
            self._step(velocity_BFCHW, index)
            self._steps_done = index + 1
            if on_step is not None:
                on_step(
                    StepEvent(
                        step=index + 1,
                        total=total,
                        timestep=timestep,
                        x0=partial(self._x0, input_BFCHW, velocity_BFCHW, timestep),
                        state=self._state,
                    )
                )
        return self._latents_BFCHW

    def _first_frame(self, scene: int) -> _FirstFrame:
        request = self._request
        x0_FCHW = request.first_frames[scene].to(request.device, torch.float32)
        shape = (1, request.layout.latent_frames[scene], *request.latent_shape)
        noise_BFCHW = self._steppers[scene].noise(shape, device=request.device)
        return _FirstFrame(x0_FCHW[None], noise_BFCHW[:, :1])

    def _initial_latents(self) -> Tensor:
        request = self._request
        if request.context_latents_BFCHW is None:
            latents_BFCHW = torch.zeros(request.latents_shape, device=request.device)
        else:
            latents_BFCHW = request.context_latents_BFCHW.to(request.device, torch.float32, copy=True)
        for scene, stepper in self._steppers.items():
            frames = request.layout.frame_span(scene).as_slice
            latents_BFCHW[:, frames] = stepper.initial(latents_BFCHW[:, frames].shape, device=request.device)
        self._keep_first_frames(latents_BFCHW, index=0)
        return latents_BFCHW

    def _keep_first_frames(self, latents_BFCHW: Tensor, *, index: int) -> None:
        """Put the frames to keep into `latents_BFCHW` as step `index` finds them; clean after the last."""
        for scene, frame in self._first_frames.items():
            start = self._request.layout.frame_span(scene).start
            latents_BFCHW[:, start : start + 1] = self._steppers[scene].noised(*frame, index=index)

    def _model_input(self, index: int) -> Tensor:
        input_BFCHW = self._latents_BFCHW.clone()
        for scene, stepper in self._steppers.items():
            frames = self._request.layout.frame_span(scene).as_slice
            input_BFCHW[:, frames] = stepper.model_input(input_BFCHW[:, frames], index=index)
        return input_BFCHW

    def report(self) -> DenoiseReport:
        return DenoiseReport(
            context_bytes=context_bytes(self._passes),
            speed=None if self._step_cache is None else self._step_cache.report(),
        )

    def _velocity(self, input_BFCHW: Tensor, timestep: int, *, is_last: bool) -> Tensor:
        """As `_predict`, or foretold where the request's speed allows."""
        if self._step_cache is None:
            return self._predict(input_BFCHW, timestep)
        frames = [self._request.layout.frame_span(scene).as_slice for scene in self._steppers]
        return self._step_cache.velocity(
            torch.cat([input_BFCHW[:, span] for span in frames], dim=1),
            timestep,
            compute=partial(self._predict, input_BFCHW, timestep),
            is_last=is_last,
        )

    def _predict(self, input_BFCHW: Tensor, timestep: int) -> Tensor:
        """Guided velocity of the target scenes, float32, their frames concatenated."""
        request, targets = self._request, self._request.conditioning.targets
        latents_BFCHW = input_BFCHW.to(request.dtype)
        timesteps_BN = request.conditioning.timesteps(timestep, device=request.device)[None]
        velocity_BFCHW = torch.cat(
            [self._target_velocity(each, latents_BFCHW, timesteps_BN) for each in self._passes]
        )
        if not request.is_guided:
            return velocity_BFCHW
        uncond_BFCHW, cond_BFCHW = velocity_BFCHW.chunk(2)
        return request.guidance.combine(uncond_BFCHW, cond_BFCHW, request.layout, scenes=targets)

    def _target_velocity(self, of: ModelPass, latents_BFCHW: Tensor, timesteps_BN: Tensor) -> Tensor:
        batch = len(of.prompts_BLD)
        velocity_BFCHW = of.denoiser.predict(
            latents_BFCHW.expand(batch, -1, -1, -1, -1), of.prompts_BLD, timesteps_BN.expand(batch, -1)
        ).float()
        by_scene = _by_scene(velocity_BFCHW, self._request.layout, of.denoiser.targets)
        return torch.cat([by_scene[scene] for scene in self._request.conditioning.targets], dim=1)

    def _step(self, velocity_BFCHW: Tensor, index: int) -> None:
        layout = self._request.layout
        # A new tensor: multistep schedulers keep the latents they were given for their next step.
        stepped_BFCHW = self._latents_BFCHW.clone()
        for scene, velocity in _by_scene(velocity_BFCHW, layout, tuple(self._steppers)).items():
            frames = layout.frame_span(scene).as_slice
            noisy_BFCHW = self._latents_BFCHW[:, frames]
            stepped_BFCHW[:, frames] = self._steppers[scene].step(velocity, noisy_BFCHW, index=index)
        self._keep_first_frames(stepped_BFCHW, index=index + 1)
        self._latents_BFCHW = stepped_BFCHW

    def _state(self) -> DenoiseState:
        tensors = {"latents_BFCHW": self._latents_BFCHW.clone()}
        for scene, stepper in self._steppers.items():
            tensors |= {f"scene_{scene:03d}.{name}": part for name, part in stepper.history().items()}
        if self._step_cache is not None:
            tensors |= {_STEP_CACHE + name: part for name, part in self._step_cache.history().items()}
        return DenoiseState(steps_done=self._steps_done, tensors=tensors)

    def _x0(self, input_BFCHW: Tensor, velocity_BFCHW: Tensor, timestep: int) -> Tensor:
        layout = self._request.layout
        x0_BFCHW = self._latents_BFCHW.clone()
        timesteps_B = torch.tensor([timestep], device=input_BFCHW.device)
        for scene, velocity in _by_scene(velocity_BFCHW, layout, tuple(self._steppers)).items():
            frames = layout.frame_span(scene).as_slice
            x0_BFCHW[:, frames] = self._schedule.x0(input_BFCHW[:, frames], velocity, timesteps_B)
        self._keep_first_frames(x0_BFCHW, index=len(self._timesteps))
        return x0_BFCHW


def _copy_with_timesteps(scheduler: Any, num_inference_steps: int) -> Any:
    prepared = copy.deepcopy(scheduler)
    set_timesteps(prepared, num_inference_steps)
    return prepared


def _named(tensors: Mapping[str, Tensor], prefix: str, *, device: torch.device | str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _by_scene(frames_BFCHW: Tensor, layout: SceneLayout, scenes: tuple[int, ...]) -> dict[int, Tensor]:
    parts = torch.split(frames_BFCHW, [layout.latent_frames[scene] for scene in scenes], dim=1)
    return dict(zip(scenes, parts, strict=True))


def _check_denoiser(denoiser: Denoiser, request: DenoiseRequest) -> None:
    if denoiser.layout != request.layout:
        raise LayoutMismatch(
            f"the denoiser was prepared for layout {denoiser.layout.digest()[:12]} ({denoiser.layout.mask}, "
            f"{denoiser.layout.num_scenes} scenes), the request has {request.layout.digest()[:12]} "
            f"({request.layout.mask}, {request.layout.num_scenes} scenes); prepare it for that one"
        )
    missing = [scene for scene in request.conditioning.targets if scene not in denoiser.targets]
    if missing:
        raise LayoutMismatch(
            f"the denoiser was prepared for target scenes {list(denoiser.targets)}, the request also "
            f"denoises {missing}; prepare it for {list(request.conditioning.targets)}"
        )
