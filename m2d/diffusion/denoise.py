"""The only denoising loop: generation, extension and re-rolling differ in their conditioning alone.

Owns the order of a step (scale, predict, guide, check, step) and which latents change. Schedulers are stepped
in `stepper.py`; a backend runs the model.
"""

# B batch, N scenes, F latent frames (all scenes together), C latent channels, H W latent height and width,
# L text tokens, D width. B is 1: one story at a time; guidance doubles it inside `_predict`.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from m2d.diffusion.denoiser import Denoiser
from m2d.diffusion.passes import ModelPass, context_bytes, keep_context, model_passes
from m2d.diffusion.request import DenoiseRequest
from m2d.diffusion.schedulers import check_scheduler, with_timesteps
from m2d.diffusion.step_cache import STEP_CACHE_RULES, StepCache, StepCacheReport
from m2d.diffusion.targets import targets_of
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import BackendError, LayoutMismatch, UnusableState
from m2d.saved_tensors import misfit

__all__ = ["DenoiseReport", "DenoiseRequest", "DenoiseState", "Draft", "StepEvent", "denoise", "draft"]

_STEP_CACHE = "step_cache."
# Of velocities that are not finite; any other dtype has room for what the weights should give.
_REMEDIES = {torch.float16: "use bfloat16 or float32, and check the model folder's weights"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseState:
    """State of an unfinished run; resuming from it gives the bits of a run that was never interrupted.

    Attributes:
        steps_done: Steps finished.
        tensors: The latents and the state of the scenes' schedulers, by name. No generator state is needed:
            a draw depends on its seed and step alone.
    """

    steps_done: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEvent:
    """What `on_step` gets after every step.

    Attributes:
        step: Steps finished, from 1.
        total: Steps of the run.
        timestep: The training timestep this step started from, 0 to 999.
        x0: Returns the current estimate of all scenes' clean latents, float32 BFCHW, for previews. Each call
            copies the latents.
        state: Returns the state from which the run can be resumed after this step.
    """

    step: int
    total: int
    timestep: int
    x0: Callable[[], Tensor] = field(repr=False)
    state: Callable[[], DenoiseState] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseReport:
    """How the latents were computed.

    Attributes:
        context_bytes: Memory of the context that was computed once; 0 when there was none.
        speed: What step caching skipped; None when every step was computed.
    """

    context_bytes: int = 0
    speed: StepCacheReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """The first steps of a run.

    Attributes:
        x0_BFCHW: The estimate of all scenes' clean latents after them.
        state: The state from which the run resumes after them.
    """

    x0_BFCHW: Tensor
    state: DenoiseState


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
        scheduler: From `scheduler_from_config`; it is not changed.
        request: What to denoise.
        on_step: Called after every step; an exception from it ends the run.
        resume: State to continue from; it must come from the same request and scheduler.
        on_report: Called once, after the last step.

    Returns:
        Clean latents of all scenes, float32 (1, F, C, H, W) on the request's device. Those of context scenes
        are the given latents, bit for bit.

    Raises:
        SchedulerError: The scheduler would sample wrongly, or cannot take that many steps.
        LayoutMismatch: The denoiser was prepared for another layout or for other scenes.
        BackendError: The predicted velocity is not finite.
        UnusableState: `resume` belongs to another request.
    """
    run = _begun(denoiser, scheduler, request, resume)
    run.take_steps(request.num_inference_steps, on_step)
    if on_report is not None:
        on_report(run.report())
    return run.latents_BFCHW


@torch.no_grad()
def draft(
    denoiser: Denoiser,
    scheduler: Any,
    request: DenoiseRequest,
    *,
    num_steps: int,
    on_step: Callable[[StepEvent], None] | None = None,
    resume: DenoiseState | None = None,
) -> Draft:
    """Take the first `num_steps` steps of `denoise`, at least one after those of `resume`.

    Other arguments and errors are those of `denoise`.
    """
    run = _begun(denoiser, scheduler, request, resume)
    done = 0 if resume is None else resume.steps_done
    last = run.take_steps(min(max(num_steps, done + 1), request.num_inference_steps), on_step)
    if last is None:
        raise ValueError(f"draft: all {request.num_inference_steps} steps are done")
    return Draft(x0_BFCHW=last.x0(), state=last.state())


def _begun(denoiser: Denoiser, scheduler: Any, request: DenoiseRequest, resume: DenoiseState | None) -> _Run:
    _check_denoiser(denoiser, request)
    check_scheduler(scheduler)
    run = _Run(denoiser, scheduler, request)
    if resume is not None:
        run.restore(resume)
    return run


class _Run:
    """One call of `denoise`: the story's latents and a stepper for each target scene."""

    def __init__(self, denoiser: Denoiser, scheduler: Any, request: DenoiseRequest) -> None:
        prepared = with_timesteps(scheduler, request.num_inference_steps)
        self._denoiser = denoiser
        self._request = request
        self._timesteps = [int(timestep) for timestep in prepared.timesteps]
        self._schedule = VelocitySchedule.from_scheduler(prepared).to(request.device)
        self._targets = targets_of(prepared, request)
        self._images_BFCHW = request.image_latents()
        self._latents_BFCHW = self._initial_latents()
        self._steps_done = 0
        self._passes: tuple[ModelPass, ...] = ()
        rule = STEP_CACHE_RULES[request.speed]
        self._step_cache = None if rule is None else StepCache(rule, self._schedule)

    def restore(self, state: DenoiseState) -> None:
        done, total = state.steps_done, len(self._timesteps)
        if not 0 <= done <= total:
            raise UnusableState(f"step {done} is done, the request has {total}")
        latents_BFCHW = state.tensors.get("latents_BFCHW")
        problem = misfit(latents_BFCHW, dtype=torch.float32, shape=self._latents_BFCHW.shape)
        if problem or latents_BFCHW is None:
            raise UnusableState(f"the latents after step {done}: latents_BFCHW {problem}")
        device = self._request.device
        self._latents_BFCHW = latents_BFCHW.to(device, copy=True)
        self._steps_done = done
        shapes = [self._latents_BFCHW[:, target.frames].shape for target in self._targets]
        for target, shape in zip(self._targets, shapes, strict=True):
            history = _named(state.tensors, target.state_prefix, device=device)
            target.stepper.restore(history, steps_done=done, shape=shape)
        if self._step_cache is not None:
            num_frames = sum(shape[1] for shape in shapes)
            self._step_cache.restore(
                _named(state.tensors, _STEP_CACHE, device=device),
                timesteps=self._timesteps[:done],
                shape=(shapes[0][0], num_frames, *shapes[0][2:]),
            )

    def take_steps(self, until: int, on_step: Callable[[StepEvent], None] | None) -> StepEvent | None:
        """Take the steps up to number `until`, and return the event of the last one; None if all are done."""
        request, total = self._request, len(self._timesteps)
        event: StepEvent | None = None
        if self._steps_done < until:
            passes = model_passes(self._denoiser, request)
            self._passes = keep_context(passes, request, self._with_images(self._latents_BFCHW))
        for index in range(self._steps_done, until):
            timestep = self._timesteps[index]
            input_BFCHW = self._latents_BFCHW.clone()
            for target in self._targets:
                unscaled_BFCHW = input_BFCHW[:, target.frames]
                input_BFCHW[:, target.frames] = target.stepper.model_input(unscaled_BFCHW, index=index)
            if request.first_frames_are_clean:
                self._keep_first_frames(input_BFCHW, index=total)

            predict = partial(self._predict, input_BFCHW, timestep)
            if self._step_cache is None:
                velocity_BFCHW = predict()
            else:
                noisy_BFCHW = torch.cat([input_BFCHW[:, target.frames] for target in self._targets], dim=1)
                velocity_BFCHW = self._step_cache.velocity(
                    noisy_BFCHW, timestep, compute=predict, is_last=index + 1 == total
                )
            if not torch.isfinite(velocity_BFCHW).all():
                raise BackendError(
                    f"step {index + 1} of {total}: the predicted velocity is not finite in {request.dtype}; "
                    + _REMEDIES.get(request.dtype, "check the model folder's weights")
                )

            # A new tensor: multistep schedulers keep the latents they were given for their next step.
            stepped_BFCHW = self._latents_BFCHW.clone()
            for target in self._targets:
                stepped_BFCHW[:, target.frames] = target.stepper.step(
                    velocity_BFCHW[:, target.part], self._latents_BFCHW[:, target.frames], index=index
                )
            self._keep_first_frames(stepped_BFCHW, index=index + 1)
            self._latents_BFCHW, self._steps_done = stepped_BFCHW, index + 1
            event = StepEvent(
                step=index + 1,
                total=total,
                timestep=timestep,
                x0=partial(self._x0, input_BFCHW, velocity_BFCHW, timestep),
                state=self._state,
            )
            if on_step is not None:
                on_step(event)
        return event

    @property
    def latents_BFCHW(self) -> Tensor:
        return self._latents_BFCHW

    def report(self) -> DenoiseReport:
        return DenoiseReport(
            context_bytes=context_bytes(self._passes),
            speed=None if self._step_cache is None else self._step_cache.report(),
        )

    def _initial_latents(self) -> Tensor:
        request = self._request
        if request.context_latents_BFCHW is None:
            latents_BFCHW = torch.zeros(request.latents_shape, device=request.device)
        else:
            latents_BFCHW = request.context_latents_BFCHW.to(request.device, torch.float32, copy=True)
        for target in self._targets:
            shape = latents_BFCHW[:, target.frames].shape
            latents_BFCHW[:, target.frames] = target.stepper.initial(shape, device=request.device)
        self._keep_first_frames(latents_BFCHW, index=0)
        return latents_BFCHW

    def _keep_first_frames(self, latents_BFCHW: Tensor, *, index: int) -> None:
        """Write the given first frames into `latents_BFCHW`, at the noise level before step `index`."""
        for target in self._targets:
            if target.first_frame is not None:
                start = target.frames.start
                noised_BFCHW = target.stepper.noised(*target.first_frame, index=index)
                latents_BFCHW[:, start : start + noised_BFCHW.shape[1]] = noised_BFCHW

    def _predict(self, input_BFCHW: Tensor, timestep: int) -> Tensor:
        """Predict the target scenes' guided velocity, float32, their frames concatenated."""
        request, targets = self._request, self._request.conditioning.targets
        latents_BFCHW = self._with_images(input_BFCHW)
        timesteps_BN = request.conditioning.timesteps(timestep, device=request.device)[None]
        velocity_BFCHW = torch.cat(
            [each.velocity(latents_BFCHW, timesteps_BN, targets=targets) for each in self._passes]
        )
        if not request.is_guided:
            return velocity_BFCHW
        uncond_BFCHW, cond_BFCHW = velocity_BFCHW.chunk(2)
        guidance = request.guidance.at(timestep, num_steps=request.num_inference_steps)
        return guidance.combine(uncond_BFCHW, cond_BFCHW, request.layout, scenes=targets)

    def _with_images(self, latents_BFCHW: Tensor) -> Tensor:
        """Return the model's input, in its dtype: latents and, along C, those of images."""
        latents_BFCHW = latents_BFCHW.to(self._request.dtype)
        if self._images_BFCHW is None:
            return latents_BFCHW
        return torch.cat([latents_BFCHW, self._images_BFCHW], dim=2)

    def _state(self) -> DenoiseState:
        tensors = {"latents_BFCHW": self._latents_BFCHW.clone()}
        for target in self._targets:
            history = target.stepper.history()
            tensors |= {target.state_prefix + name: part for name, part in history.items()}
        if self._step_cache is not None:
            tensors |= {_STEP_CACHE + name: part for name, part in self._step_cache.history().items()}
        return DenoiseState(steps_done=self._steps_done, tensors=tensors)

    def _x0(self, input_BFCHW: Tensor, velocity_BFCHW: Tensor, timestep: int) -> Tensor:
        x0_BFCHW = self._latents_BFCHW.clone()
        timesteps_B = torch.tensor([timestep], device=input_BFCHW.device)
        for target in self._targets:
            x0_BFCHW[:, target.frames] = self._schedule.x0(
                input_BFCHW[:, target.frames], velocity_BFCHW[:, target.part], timesteps_B
            )
        self._keep_first_frames(x0_BFCHW, index=len(self._timesteps))
        return x0_BFCHW


def _named(tensors: Mapping[str, Tensor], prefix: str, *, device: torch.device | str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, keyed by the rest of the name."""
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


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
