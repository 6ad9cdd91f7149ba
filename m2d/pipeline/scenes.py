"""Prompts to denoised scenes: what `m2d generate`, every other command and the library run.

Owns what each window of a run is given: prompts, context latents, first frames and names of the noise. It
takes and returns tensors: it writes no film, keeps no journal and handles no signal; an `Observer` sees every
step and every finished window. Denoising is `m2d.diffusion.denoise`, decoding `m2d.pipeline.decoding`.
"""

# B batch, N scenes, F latent frames, C latent channels, H W height and width, P pixel frames, L text tokens,
# D width

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from m2d.backend import Backend, Denoiser
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseReport, DenoiseRequest, DenoiseState, StepEvent, denoise, draft
from m2d.diffusion.schedulers import timesteps_of
from m2d.diffusion.step_cache import StepCacheReport
from m2d.families.source import ModelSource
from m2d.model.finite import check_finite
from m2d.pipeline.decoding import SceneDecoder, free_cached
from m2d.pipeline.first_frames import FirstFrames
from m2d.pipeline.machine import computing_with
from m2d.pipeline.observer import SILENT, FinishedWindow, Observer, ResumePoint, WindowStep
from m2d.pipeline.pipeline_vae import DEFAULT_VAE, PipelineVae, VaeUse
from m2d.pipeline.prompts import PromptEncoder
from m2d.pipeline.window import (
    Windows,
    check_finished,
    context_latents,
    is_guided,
    label_of,
    needed_scenes,
    run_dtype,
    run_scheduler,
    window_guidance,
    window_options,
)
from m2d.progress import Clock, StageProgress
from m2d.recipe.plan import RunPlan, WindowPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenScene:
    """A scene that exists before the run: context for the scenes that are made.

    Attributes:
        latents_FCHW: Its latents; None when they are encoded from its frames.
        frames_PHWC: Its frames, uint8, when decoding its latents would not give them.
        clip: Returns the frames to encode when there are no latents. It is called only for a scene that is
            needed or has frames.
    """

    latents_FCHW: np.ndarray | None = None
    frames_PHWC: np.ndarray | None = None
    clip: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoisedScenes:
    """What `ScenePipeline.denoise` returns.

    Attributes:
        latents_FCHW: Scene of the film, from 0, to its latents, float32 on the CPU. A given scene without
            latents that no window needs is left out.
        speeds: Window to what step caching skipped there, for the windows that used it.
    """

    latents_FCHW: Mapping[int, Tensor]
    speeds: Mapping[int, StepCacheReport]


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftScenes:
    """Estimates of all scenes after the first steps.

    Attributes:
        latents_FCHW: As in `DenoisedScenes`; estimates where a window is not finished.
        state: The state of the first unfinished window, from which the run resumes.
    """

    latents_FCHW: Mapping[int, Tensor]
    state: DenoiseState


class ScenePipeline:
    """One model's text encoder, transformer and VAE, each loaded when it is first needed."""

    def __init__(
        self,
        source: ModelSource,
        backend: Backend,
        *,
        device: str,
        clock: Clock,
        stays_loaded: bool = False,
        vae: VaeUse = DEFAULT_VAE,
    ) -> None:
        """Load nothing yet.

        Args:
            device: Where text encoder and VAE run.
            clock: Times the stages and reports them.
            stays_loaded: Whether the text encoder is kept for the next run; it is freed otherwise.
            vae: How the VAE runs.
        """
        self.source = source
        self.backend = backend
        self.clock = clock
        self.prompts = PromptEncoder(clock, stays_loaded=stays_loaded)
        self._device = device
        self.vae = PipelineVae(source, backend, device=device, use=vae)

    def decoder(self, num_threads: Mapping[int, int | None] = MappingProxyType({})) -> SceneDecoder:
        """Return a decoder of this model's latents; `num_threads` gives CPU threads for scenes by number."""
        return self.vae.decoder(reporter=self.clock.reporter, num_threads=num_threads)

    def release_transformer(self) -> None:
        """Free the transformer: decoding needs its memory."""
        self.backend.release()
        free_cached()

    def denoise(
        self,
        plans: Sequence[RunPlan],
        *,
        given: Mapping[int, GivenScene] | None = None,
        resume: ResumePoint | None = None,
        observer: Observer = SILENT,
    ) -> DenoisedScenes:
        """Run all windows of all plans that are not finished yet.

        Args:
            plans: Runs that follow each other, on one backend and device.
            given: Scenes of the film that exist before the first run, by number.
            resume: What an interrupted run of the same plans finished.
            observer: Sees every step and finished window, and may end the run.

        Raises:
            CheckpointError: The model's weights do not fit its configs.
            BackendError: The backend cannot run the plans, or predicts values that are not finite.
            UnusableState: `resume` is not of these plans.
        """
        windows = [(plan, part) for plan in plans for part in plan.windows]
        run = _Run(self, windows, given or {}, observer)
        latents_FCHW = run.latents_after_all_windows(resume or ResumePoint())
        self.prompts.forget()
        return DenoisedScenes(latents_FCHW=latents_FCHW, speeds=run.speeds)

    def draft(
        self,
        plans: Sequence[RunPlan],
        *,
        given: Mapping[int, GivenScene] | None = None,
        resume: ResumePoint,
        share: float,
        observer: Observer = SILENT,
    ) -> DraftScenes:
        """Estimate all scenes after the first steps of every window that is not finished yet.

        A run that resumes with the returned state gives the scenes of a run without a draft, bit for bit.
        Later windows are estimated with the estimates before them as context; their steps are not kept.
        The prompts stay encoded for that run.

        Args:
            resume: What is finished; at least one window is not.
            share: Share of a window's steps to take.
        """
        windows = [(plan, part) for plan in plans for part in plan.windows]
        run = _Run(self, windows, given or {}, observer, draft_share=share)
        latents_FCHW = run.latents_after_all_windows(resume)
        return DraftScenes(latents_FCHW=latents_FCHW, state=run.draft_states[0])

    def encode(self, frames_PHWC: np.ndarray) -> Tensor:
        """Encode a scene's uint8 frames to latents_FCHW, float32 on the CPU.

        Raises:
            NotFiniteError: Some latents are NaN or infinite.
        """
        return check_finite(self.vae().encode(frames_PHWC).cpu(), what="the VAE's encoding of frames")


class _Run:
    """One call of `ScenePipeline.denoise`: the latents and frames of all scenes so far."""

    def __init__(
        self,
        parts: ScenePipeline,
        windows: Windows,
        given: Mapping[int, GivenScene],
        observer: Observer,
        *,
        draft_share: float | None = None,
    ) -> None:
        self._parts = parts
        self._windows = windows
        self._given = given
        self._observer = observer
        self._frames = {
            scene: each.frames_PHWC for scene, each in given.items() if each.frames_PHWC is not None
        }
        self._latents: dict[int, Tensor] = {}
        self.speeds: dict[int, StepCacheReport] = {}
        self._draft_share = draft_share
        self.draft_states: list[DenoiseState] = []

    def latents_after_all_windows(self, resume: ResumePoint) -> Mapping[int, Tensor]:
        first = len(resume.windows)
        self._latents = self._given_latents()
        if first < len(self._windows):
            self._parts.prompts.encode(self._windows[first:], self._observer)
        for window in resume.windows:
            self._add(check_finished(window, *self._windows[window.index]))
        if first < len(self._windows):
            self._run_windows(first, resume.state)
        return self._latents

    def _given_latents(self) -> dict[int, Tensor]:
        """Return the latents of the given scenes; encode those that have none but are needed."""
        latents = {
            scene: torch.from_numpy(np.array(each.latents_FCHW, np.float32))
            for scene, each in self._given.items()
            if each.latents_FCHW is not None
        }
        needed = {*needed_scenes(self._windows), *self._frames}
        missing = {
            scene: each.clip
            for scene, each in self._given.items()
            if scene not in latents and scene in needed and each.clip is not None
        }
        if not missing:
            return latents
        with self._parts.clock.stage("encode frames", total=len(missing)) as progress:
            for scene, clip in missing.items():
                self._observer.check_stop()
                self._frames[scene] = clip()
                with computing_with(self._windows[0][0].num_threads):
                    latents[scene] = self._parts.encode(self._frames[scene])
                progress.advance()
        return latents

    def _run_windows(self, first: int, state: DenoiseState | None) -> None:
        steps = [self._num_steps(plan) for plan, _ in self._windows[first:]]
        stage = "denoise" if self._draft_share is None else "draft"
        plan, part = self._windows[first]
        with self._parts.clock.stage("load transformer"), computing_with(plan.num_threads):
            self._prepare(plan, part)
        with self._parts.clock.stage(stage, total=sum(steps)) as progress:
            for index in range(first, len(self._windows)):
                self._observer.check_stop()
                resume = state if index == first else None
                with computing_with(self._windows[index][0].num_threads):
                    window = self._denoise(index, resume=resume, progress=progress)
                self._add(window)
                if self._observer.on_window is not None:
                    self._observer.on_window(window)
            self._observer.check_stop()

    def _add(self, window: FinishedWindow) -> None:
        """Put the scenes of a finished window in place of those that were there."""
        self._latents |= window.latents_FCHW
        for scene in window.latents_FCHW:
            self._frames.pop(scene, None)
        if window.speed is not None:
            self.speeds[window.index] = window.speed

    def _num_steps(self, plan: RunPlan) -> int:
        total = plan.sampling.num_inference_steps
        return total if self._draft_share is None else max(1, round(self._draft_share * total))

    def _prepare(self, plan: RunPlan, part: WindowPlan) -> Denoiser:
        timesteps = timesteps_of(run_scheduler(plan), plan.sampling.num_inference_steps)
        options = replace(window_options(plan, part), timesteps=timesteps)
        return self._parts.backend.prepare(plan.source, part.layout, options)

    def _denoise(self, index: int, *, resume: DenoiseState | None, progress: StageProgress) -> FinishedWindow:
        plan, part = self._windows[index]
        reports: list[DenoiseReport] = []
        if resume is not None:
            progress.advance(resume.steps_done)

        def on_step(event: StepEvent) -> None:
            progress.advance(detail=label_of(part.window.scenes))
            if self._observer.on_step is not None:
                self._observer.on_step(WindowStep(index=index, part=part, event=event))

        # The request first: the VAE may need the memory that the transformer leaves.
        request = self._request(plan, part)
        arguments = (self._prepare(plan, part), run_scheduler(plan), request)
        if self._draft_share is None:
            latents_BFCHW = denoise(
                *arguments, on_step=on_step, resume=resume, on_report=reports.append
            ).cpu()
            self._report(reports[0])
        else:
            drawn = draft(*arguments, num_steps=self._num_steps(plan), on_step=on_step, resume=resume)
            latents_BFCHW = drawn.x0_BFCHW.cpu()
            self.draft_states.append(drawn.state)
        made = {
            scene: latents_BFCHW[0, part.layout.frame_span(place).as_slice].clone()
            for place, scene in enumerate(part.window.scenes)
            if scene in part.window.targets
        }
        return FinishedWindow(index=index, latents_FCHW=made, speed=reports[0].speed if reports else None)

    def _report(self, report: DenoiseReport) -> None:
        reporter = self._parts.clock.reporter
        if report.context_bytes:
            reporter.note(f"context was computed once: {report.context_bytes / 1e6:.1f} MB")
        if report.speed is not None:
            reporter.note(str(report.speed))

    def _request(self, plan: RunPlan, part: WindowPlan) -> DenoiseRequest:
        window, shape, prompts = part.window, plan.scene_geometry, self._parts.prompts
        scenes = [plan.scenes[scene] for scene in window.scenes]
        negatives = [scene.negative_prompt for scene in scenes]
        vae = self._parts.vae
        first = FirstFrames(vae=vae, frames_PHWC=self._frames, latents_FCHW=self._latents)
        with vae.beside_transformer() if first.needs_vae(plan, part) else nullcontext():
            kept, images = first.kept(plan, part), first.images(plan, part)
        return DenoiseRequest(
            layout=part.layout,
            scene_seeds=tuple(scene.seed or 0 for scene in scenes),
            scene_numbers=tuple(plan.first_scene + scene for scene in window.scenes),
            latent_shape=(plan.source.geometry.latent_channels, shape.latent_height, shape.latent_width),
            prompt_embeds_BLD=prompts.embeds(plan, [scene.prompt for scene in scenes]),
            negative_embeds_BLD=prompts.embeds(plan, negatives) if is_guided(plan, part) else None,
            conditioning=Conditioning(
                num_scenes=len(scenes),
                context=frozenset(window.scenes.index(scene) for scene in window.context),
            ),
            context_latents_BFCHW=context_latents(plan, part, self._latents) if window.context else None,
            first_frames=kept,
            first_frames_are_clean=plan.source.geometry.starts_from_images,
            images=images,
            guidance=window_guidance(plan, part),
            num_inference_steps=plan.sampling.num_inference_steps,
            keep_context=plan.sampling.keep_context,
            speed=plan.sampling.speed,
            dtype=run_dtype(plan),
            device=plan.device,
        )
