"""Making scenes: prompts are encoded, windows denoised one after the other, every finished one kept.

Owns what a window is given (context, first frames, noise names) and when the journal is written; the
denoising itself is `m2d.diffusion.denoise`.
"""

# B batch, N scenes, F latent frames, C latent channels, H W height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from m2d.backend import Backend, Denoiser
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, DenoiseState, StepEvent, denoise
from m2d.diffusion.report import DenoiseReport
from m2d.diffusion.schedulers import timesteps_of
from m2d.diffusion.step_cache import SpeedReport
from m2d.errors import Interrupted
from m2d.film.journal import Journal
from m2d.film.loaded_film import LoadedFilm
from m2d.model.checkpoint import ModelSource, load_codec, load_text
from m2d.model.codec import decode_scene, encode_scene, from_pixels
from m2d.model.decoding import sliced
from m2d.pipeline.window import is_guided, run_dtype, run_scheduler, window_guidance, window_options
from m2d.progress import Clock, StageProgress
from m2d.recipe.plan import RunPlan, WindowPlan
from m2d.stop import StopRequest

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

Watcher = Callable[["WindowEvent"], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowEvent:
    """A step of a window, for whoever watches.

    Attributes:
        step: The step of the denoising loop.
        part: The window.
        scene_numbers: Its scenes' numbers in the film, from 0.
    """

    step: StepEvent
    part: WindowPlan
    scene_numbers: tuple[int, ...]


class SharedCodec:
    """The model's codec, loaded when it is first needed."""

    def __init__(self, source: ModelSource, *, device: str) -> None:
        """Load nothing yet."""
        self._source = source
        self._device = device
        self._codec: AutoencoderKLCogVideoX | None = None

    def __call__(self) -> AutoencoderKLCogVideoX:
        """Return the codec, in float32: half precision bands skies and shifts colours."""
        if self._codec is None:
            self._codec = load_codec(self._source, device=self._device, dtype=torch.float32)
        return self._codec


@dataclass(kw_only=True, slots=True)
class Making:
    """Makes the scenes of a production.

    Attributes:
        backend: Runs the transformer.
        codec: The model's.
        clock: Is told of stages.
        stop: A stop is obeyed after the step in work.
        journal: What is finished is kept here; None keeps nothing (a draft).
        watcher: Called after every step.
    """

    backend: Backend
    codec: SharedCodec
    clock: Clock
    stop: StopRequest
    journal: Journal | None = None
    watcher: Watcher | None = None
    _latents: dict[int, Tensor] = field(default_factory=dict)
    _frames: dict[int, np.ndarray] = field(default_factory=dict)
    _embeds: dict[tuple[torch.dtype, str], Tensor] = field(default_factory=dict)
    _speeds: dict[int, SpeedReport] = field(default_factory=dict)

    def make(self, plans: Sequence[RunPlan], film: LoadedFilm | None) -> dict[int, Tensor]:
        """Run all windows of all plans, except those that the journal has.

        Args:
            plans: Runs that follow each other, of one model.
            film: What the first one goes on from.

        Returns:
            Latents FCHW of the scenes of the film, float32 on the CPU; of all but footage that no window is
            given.

        Raises:
            Interrupted: A signal came; the journal holds the step before.
        """
        windows = [(plan, part) for plan in plans for part in plan.windows]
        if film is not None:
            given = {number: scene.frames_PHWC for number, scene in enumerate(film.scenes)}
            self._frames = {number: frames for number, frames in given.items() if frames is not None}
            self._latents = self._given_latents(film, needed=_needed(windows))
        done = self.journal.windows_done if self.journal is not None else {}
        if len(done) < len(windows):
            self._encode_prompts(windows[len(done) :])
        total = sum(plan.sampling.num_inference_steps for plan, _ in windows[len(done) :])
        for index in range(len(done)):
            self._take(done[index])
            self._recall(index)
        self._run_windows(windows, first=len(done), total=total)
        return self._latents

    @property
    def speeds(self) -> Mapping[int, SpeedReport]:
        """What a speed other than `exact` left out of each window, in the order they are run."""
        return self._speeds

    def release(self) -> None:
        """Give up the transformer: decoding needs its room."""
        self.backend.release()
        _free_cached()

    def _given_latents(self, film: LoadedFilm, *, needed: Set[int]) -> dict[int, Tensor]:
        """Latents FCHW of the film's scenes; what came as frames is encoded, and bare footage if needed."""
        stored = {number: scene.latents_FCHW for number, scene in enumerate(film.scenes)}
        latents = {
            number: torch.from_numpy(np.array(latents_FCHW, np.float32))
            for number, latents_FCHW in stored.items()
            if latents_FCHW is not None
        }
        missing = [
            number
            for number, scene in enumerate(film.scenes)
            if number not in latents and (number in needed or not scene.is_bare)
        ]
        if not missing:
            return latents
        with self.clock.stage("encode frames", total=len(missing)) as progress:
            for number in missing:
                self._stop_if_asked()
                self._frames[number] = film.scenes[number].clip(upscale=film.upscale)
                latents[number] = self._encoded(self._frames[number])
                progress.advance()
        return latents

    def _take(self, made: Mapping[int, Tensor]) -> None:
        """Let finished scenes take the place of those that were there."""
        self._latents |= made
        self._frames = {scene: frames for scene, frames in self._frames.items() if scene not in made}

    def _encoded(self, frames_PHWC: np.ndarray) -> Tensor:
        """Latents FCHW of frames, on the CPU."""
        return encode_scene(self.codec(), from_pixels(frames_PHWC)).cpu()

    def _encode_prompts(self, windows: Sequence[tuple[RunPlan, WindowPlan]]) -> None:
        plan = windows[0][0]
        wanted = list(dict.fromkeys((run_dtype(each[0]), text) for each in windows for text in _texts(*each)))
        for dtype in dict.fromkeys(dtype for dtype, _ in wanted):
            prompts = [text for of, text in wanted if of == dtype]
            with self.clock.stage("load text encoder"):
                encoder = load_text(plan.source, device=plan.device, dtype=dtype)
            with self.clock.stage("encode prompts", total=len(prompts)) as progress:
                # One at a time: with others in its batch, a prompt's embedding may differ in the last bits.
                for prompt in prompts:
                    self._stop_if_asked()
                    self._embeds[dtype, prompt] = encoder.encode([prompt])
                    progress.advance()
            # transformers' models refer to themselves in cycles: emptied, they free their memory now.
            encoder.model.to("meta")
            _free_cached()

    def _run_windows(self, windows: Sequence[tuple[RunPlan, WindowPlan]], *, first: int, total: int) -> None:
        if first == len(windows):
            return
        with self.clock.stage("load transformer"):
            self._prepare(*windows[first])
        with self.clock.stage("denoise", total=total) as progress:
            for index in range(first, len(windows)):
                self._stop_if_asked()
                made = self._denoise(*windows[index], index=index, progress=progress)
                self._take(made)
                if self.journal is not None:
                    told = self._speeds[index].to_json() if index in self._speeds else ""
                    self.journal.keep_window(index, made, told=told)
            self._stop_if_asked()

    def _prepare(self, plan: RunPlan, part: WindowPlan) -> Denoiser:
        timesteps = timesteps_of(run_scheduler(plan), plan.sampling.num_inference_steps)
        options = replace(window_options(plan, part), timesteps=timesteps)
        return self.backend.prepare(plan.source, part.layout, options)

    def _denoise(
        self, plan: RunPlan, part: WindowPlan, *, index: int, progress: StageProgress
    ) -> dict[int, Tensor]:
        scenes = part.window.scenes
        resume = self._resumed_state(index)
        if resume is not None:
            progress.advance(resume.steps_done)

        def on_step(event: StepEvent) -> None:
            progress.advance(detail=_span(scenes))
            if self.watcher is not None:
                self.watcher(WindowEvent(step=event, part=part, scene_numbers=scenes))
            is_last = event.step == event.total
            if self.journal is not None and not is_last and (self.stop.reason or self.journal.is_due(event)):
                self.journal.keep_step(index, event.state())
            # After the last step the window is kept first.
            if not is_last:
                self._stop_if_asked()

        latents_BFCHW = denoise(
            self._prepare(plan, part),
            run_scheduler(plan),
            self._request(plan, part),
            on_step=on_step,
            resume=resume,
            on_report=partial(self._hear, index),
        ).cpu()
        return {
            scene: latents_BFCHW[0, part.layout.frame_span(place).as_slice].clone()
            for place, scene in enumerate(scenes)
            if scene in part.window.targets
        }

    def _hear(self, index: int, report: DenoiseReport) -> None:
        """Pass on what a window tells of how it was denoised."""
        if report.context_bytes:
            self.clock.reporter.note(f"context was computed once: {report.context_bytes / 1e6:.1f} MB")
        if report.speed is not None:
            self._speeds[index] = report.speed
            self.clock.reporter.note(str(report.speed))

    def _recall(self, index: int) -> None:
        """What a window of an earlier process told."""
        told = self.journal.told.get(index) if self.journal is not None else None
        if told:
            self._speeds[index] = SpeedReport.from_json(told)

    def _resumed_state(self, index: int) -> DenoiseState | None:
        step = self.journal.step if self.journal is not None else None
        return step.state if step is not None and step.window == index else None

    def _stop_if_asked(self) -> None:
        if self.stop.reason:
            raise Interrupted(f"{self.stop.reason}: what is done is kept; go on with --resume")

    def _request(self, plan: RunPlan, part: WindowPlan) -> DenoiseRequest:
        window, shape = part.window, plan.scene_geometry
        scenes = [plan.scenes[scene] for scene in window.scenes]
        return DenoiseRequest(
            layout=part.layout,
            scene_seeds=tuple(scene.seed or 0 for scene in scenes),
            scene_numbers=tuple(plan.first_scene + scene for scene in window.scenes),
            latent_shape=(plan.source.geometry.latent_channels, shape.latent_height, shape.latent_width),
            prompt_embeds_BLD=self._embeds_of(plan, [scene.prompt for scene in scenes]),
            negative_embeds_BLD=self._negative_embeds(plan, part),
            conditioning=Conditioning(
                num_scenes=len(scenes),
                context=frozenset(window.scenes.index(scene) for scene in window.context),
            ),
            context_latents_BFCHW=self._context_latents(plan, part) if window.context else None,
            first_frames=self._first_frames(plan, part),
            guidance=window_guidance(plan, part),
            num_inference_steps=plan.sampling.num_inference_steps,
            keep_context=plan.sampling.keep_context,
            speed=plan.sampling.speed,
            dtype=run_dtype(plan),
            device=plan.device,
        )

    def _negative_embeds(self, plan: RunPlan, part: WindowPlan) -> Tensor | None:
        if not is_guided(plan, part):
            return None
        return self._embeds_of(plan, [plan.scenes[scene].negative_prompt for scene in part.window.scenes])

    def _embeds_of(self, plan: RunPlan, prompts: Sequence[str]) -> Tensor:
        return torch.cat([self._embeds[run_dtype(plan), prompt] for prompt in prompts], dim=1)

    def _context_latents(self, plan: RunPlan, part: WindowPlan) -> Tensor:
        """All scenes' latents; where a target's belong is nothing but room."""
        shape = plan.scene_geometry
        size = (plan.source.geometry.latent_channels, shape.latent_height, shape.latent_width)
        parts = [
            torch.zeros(plan.scenes[scene].geometry.num_latent_frames, *size)
            if scene in part.window.targets
            else self._latents[scene]
            for scene in part.window.scenes
        ]
        return torch.cat(parts)[None]

    def _first_frames(self, plan: RunPlan, part: WindowPlan) -> dict[int, Tensor]:
        """For scenes that continue the one before them: its last frame, encoded as a first frame is."""
        return {
            part.window.scenes.index(scene): self._encoded(self._last_frame(scene - 1))
            for scene in part.window.targets
            if plan.scenes[scene].join.kind == "continue"
        }

    def _last_frame(self, scene: int) -> np.ndarray:
        """The last frame of a finished scene as PHWC, before its colours are matched to others."""
        if scene in self._frames:
            return self._frames[scene][-1:]
        # In slices: the transformer is in memory, too.
        with sliced(self.codec()):
            frames_PHWC: np.ndarray = decode_scene(self.codec(), self._latents[scene])[-1:]
        return frames_PHWC


def _needed(windows: Sequence[tuple[RunPlan, WindowPlan]]) -> set[int]:
    """Scenes of the film that windows are given before they are made anew."""
    needed: set[int] = set()
    made: set[int] = set()
    for plan, part in windows:
        before = {scene - 1 for scene in part.window.targets if plan.scenes[scene].join.kind == "continue"}
        needed |= {*part.window.context, *before} - made
        made |= set(part.window.targets)
    return needed


def _free_cached() -> None:
    """Give back what torch keeps of freed memory: the next model needs it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _texts(plan: RunPlan, part: WindowPlan) -> list[str]:
    scenes = [plan.scenes[scene] for scene in part.window.scenes]
    negatives = [scene.negative_prompt for scene in scenes] if is_guided(plan, part) else []
    return [*(scene.prompt for scene in scenes), *negatives]


def _span(numbers: Sequence[int]) -> str:
    """`scenes 1-3`, counted from 1 as users do."""
    first, last = numbers[0] + 1, numbers[-1] + 1
    return f"scene {first}" if first == last else f"scenes {first}-{last}"
