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
from typing import Any

import torch
from torch import Tensor

from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoiser import Denoiser
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import check_scheduler, set_timesteps
from m2d.diffusion.stepper import SceneStepper
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import BackendError, LayoutMismatch
from m2d.layout import SceneLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseRequest:
    """Everything the latents depend on besides model and scheduler.

    Attributes:
        layout: The story's scenes.
        scene_seeds: One per scene; scene i's noise comes from `scene_seeds[i]` and i alone.
        latent_shape: (C, H, W) of one latent frame.
        prompt_embeds_BLD: Prompt embeddings of all scenes along L, B = 1.
        negative_embeds_BLD: The same for the negative prompts; None when no target scene is guided.
        conditioning: Which scenes are given and which are denoised.
        context_latents_BFCHW: Clean latents of all scenes, B = 1; only context scenes are read. None without
            context.
        guidance: Guidance scale of every scene.
        num_inference_steps: Denoising steps.
        dtype: What the model computes in. Latents are stepped in float32 whatever it is.
        device: Where the model runs.

    Raises:
        ValueError: Parts that do not fit each other.
    """

    layout: SceneLayout
    scene_seeds: tuple[int, ...]
    latent_shape: tuple[int, int, int]
    prompt_embeds_BLD: Tensor
    negative_embeds_BLD: Tensor | None = None
    conditioning: Conditioning
    context_latents_BFCHW: Tensor | None = None
    guidance: GuidanceRule
    num_inference_steps: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        num_scenes = self.layout.num_scenes
        for name, count in (
            ("scene_seeds", len(self.scene_seeds)),
            ("conditioning", self.conditioning.num_scenes),
            ("guidance.scales", len(self.guidance.scales)),
        ):
            if count != num_scenes:
                raise ValueError(f"{name} is for {count} scenes, the layout has {num_scenes}")
        if self.conditioning.context and self.context_latents_BFCHW is None:
            raise ValueError(f"scenes {sorted(self.conditioning.context)} are context but have no latents")
        if self.is_guided and self.negative_embeds_BLD is None:
            raise ValueError(f"guidance scales {self.guidance.scales} need negative_embeds_BLD")
        self._check_shapes()

    @property
    def is_guided(self) -> bool:
        """Whether the negative prompts matter for any target scene."""
        return self.guidance.enabled_for(self.conditioning.targets)

    @property
    def latents_shape(self) -> tuple[int, int, int, int, int]:
        """(1, F, C, H, W) of the whole story."""
        return (1, sum(self.layout.latent_frames), *self.latent_shape)

    def _check_shapes(self) -> None:
        context = self.context_latents_BFCHW
        if context is not None and tuple(context.shape) != self.latents_shape:
            raise ValueError(
                f"context_latents_BFCHW has shape {tuple(context.shape)}, "
                f"the layout needs {self.latents_shape}"
            )
        for name in ("prompt_embeds_BLD", "negative_embeds_BLD"):
            embeds = getattr(self, name)
            if embeds is not None and tuple(embeds.shape[:2]) != (1, self.layout.num_text_tokens):
                raise ValueError(
                    f"{name} has shape {tuple(embeds.shape)}, the layout needs "
                    f"(1, {self.layout.num_text_tokens}, D)"
                )


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
) -> Tensor:
    """Denoise the target scenes of a story.

    Args:
        denoiser: The model, prepared for the request's layout and for at least its target scenes.
        scheduler: From `scheduler_from_config`. It is copied and left as it is.
        request: What to denoise.
        on_step: Called after every step; what it raises ends the run.
        resume: Continue here instead of at step 1. It must come from the same request and scheduler.

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
    return run.latents_after_all_steps(on_step)


class _Run:
    """One call of `denoise`: the story's latents and a stepper for each target scene."""

    def __init__(self, denoiser: Denoiser, scheduler: Any, request: DenoiseRequest) -> None:
        prepared = _copy_with_timesteps(scheduler, request.num_inference_steps)
        self._denoiser = denoiser
        self._request = request
        self._timesteps = [int(timestep) for timestep in prepared.timesteps]
        self._schedule = VelocitySchedule.from_scheduler(prepared).to(request.device)
        self._steppers = {
            scene: SceneStepper(prepared, seed=request.scene_seeds[scene], scene=scene)
            for scene in request.conditioning.targets
        }
        self._latents_BFCHW = self._initial_latents()
        self._steps_done = 0

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
            prefix = f"scene_{scene:03d}."
            history = {
                name.removeprefix(prefix): tensor.to(device)
                for name, tensor in state.tensors.items()
                if name.startswith(prefix)
            }
            stepper.restore(history)

    def latents_after_all_steps(self, on_step: Callable[[StepEvent], None] | None) -> Tensor:
        total = len(self._timesteps)
        for index in range(self._steps_done, total):
            timestep = self._timesteps[index]
            input_BFCHW = self._model_input(index)
            velocity_BFCHW = self._predict(input_BFCHW, timestep)
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

    def _initial_latents(self) -> Tensor:
        request = self._request
        if request.context_latents_BFCHW is None:
            latents_BFCHW = torch.zeros(request.latents_shape, device=request.device)
        else:
            latents_BFCHW = request.context_latents_BFCHW.to(request.device, torch.float32, copy=True)
        for scene, stepper in self._steppers.items():
            frames = request.layout.frame_span(scene).as_slice
            latents_BFCHW[:, frames] = stepper.initial(latents_BFCHW[:, frames].shape, device=request.device)
        return latents_BFCHW

    def _model_input(self, index: int) -> Tensor:
        input_BFCHW = self._latents_BFCHW.clone()
        for scene, stepper in self._steppers.items():
            frames = self._request.layout.frame_span(scene).as_slice
            input_BFCHW[:, frames] = stepper.model_input(input_BFCHW[:, frames], index=index)
        return input_BFCHW

    def _predict(self, input_BFCHW: Tensor, timestep: int) -> Tensor:
        """Guided velocity of the target scenes, float32, their frames concatenated."""
        request, targets = self._request, self._request.conditioning.targets
        latents_BFCHW = input_BFCHW.to(request.dtype)
        cond_BLD = request.prompt_embeds_BLD.to(request.device, request.dtype)
        timesteps_BN = request.conditioning.timesteps(timestep, device=request.device)[None]
        if not request.is_guided or request.negative_embeds_BLD is None:
            return self._target_velocity(latents_BFCHW, cond_BLD, timesteps_BN)
        uncond_BLD = request.negative_embeds_BLD.to(request.device, request.dtype)
        if request.guidance.mode == "sequential":
            uncond_BFCHW = self._target_velocity(latents_BFCHW, uncond_BLD, timesteps_BN)
            cond_BFCHW = self._target_velocity(latents_BFCHW, cond_BLD, timesteps_BN)
        else:
            uncond_BFCHW, cond_BFCHW = self._target_velocity(
                latents_BFCHW.expand(2, -1, -1, -1, -1),
                torch.cat([uncond_BLD, cond_BLD]),
                timesteps_BN.expand(2, -1),
            ).chunk(2)
        return request.guidance.combine(uncond_BFCHW, cond_BFCHW, request.layout, scenes=targets)

    def _target_velocity(self, latents_BFCHW: Tensor, embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        velocity_BFCHW = self._denoiser.predict(latents_BFCHW, embeds_BLD, timesteps_BN).float()
        by_scene = _by_scene(velocity_BFCHW, self._request.layout, self._denoiser.targets)
        return torch.cat([by_scene[scene] for scene in self._request.conditioning.targets], dim=1)

    def _step(self, velocity_BFCHW: Tensor, index: int) -> None:
        layout = self._request.layout
        # A new tensor: multistep schedulers keep the latents they were given for their next step.
        stepped_BFCHW = self._latents_BFCHW.clone()
        for scene, velocity in _by_scene(velocity_BFCHW, layout, tuple(self._steppers)).items():
            frames = layout.frame_span(scene).as_slice
            noisy_BFCHW = self._latents_BFCHW[:, frames]
            stepped_BFCHW[:, frames] = self._steppers[scene].step(velocity, noisy_BFCHW, index=index)
        self._latents_BFCHW = stepped_BFCHW

    def _state(self) -> DenoiseState:
        tensors = {"latents_BFCHW": self._latents_BFCHW.clone()}
        for scene, stepper in self._steppers.items():
            tensors |= {f"scene_{scene:03d}.{name}": part for name, part in stepper.history().items()}
        return DenoiseState(steps_done=self._steps_done, tensors=tensors)

    def _x0(self, input_BFCHW: Tensor, velocity_BFCHW: Tensor, timestep: int) -> Tensor:
        layout = self._request.layout
        x0_BFCHW = self._latents_BFCHW.clone()
        timesteps_B = torch.tensor([timestep], device=input_BFCHW.device)
        for scene, velocity in _by_scene(velocity_BFCHW, layout, tuple(self._steppers)).items():
            frames = layout.frame_span(scene).as_slice
            x0_BFCHW[:, frames] = self._schedule.x0(input_BFCHW[:, frames], velocity, timesteps_B)
        return x0_BFCHW


def _copy_with_timesteps(scheduler: Any, num_inference_steps: int) -> Any:
    prepared = copy.deepcopy(scheduler)
    set_timesteps(prepared, num_inference_steps)
    return prepared


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
