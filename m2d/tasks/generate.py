"""Generate: from a plan to a verified film and the run folder beside it.

Owns the order of the stages and what is kept in memory between them; every stage's work is done elsewhere.
"""

# B batch, F latent frames, C latent channels, H W height and width, P pixel frames, L text tokens, D width

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2d.backend import Backend, BackendOptions
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, StepEvent, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.errors import BackendUnavailable
from m2d.model.checkpoint import load_codec, load_text, read_scheduler_config
from m2d.model.codec import decode_scene
from m2d.progress import Reporter, StageProgress
from m2d.recipe.plan import RunPlan
from m2d.tasks.outputs import check_outputs
from m2d.video.privacy import local_names, refuse_private, without_folders
from m2d.video.provenance import MadeScene, ModelRecord, Provenance, build_provenance
from m2d.video.run_folder import write_run
from m2d.video.sheet import sheet_png
from m2d.video.write import write_film


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateResult:
    """What a run made.

    Attributes:
        film: The MP4.
        run_folder: `run.json`, `latents.safetensors` and `sheet.png`.
        num_frames: Frames of the film.
        fps: Frames per second.
        width: Pixels of the written picture.
        height: Pixels of the written picture.
        size_bytes: Size of the film.
        frames_sha256: Digest of the frames as the model made them: equal for equal runs.
        timings_s: Stage to seconds.
    """

    film: Path
    run_folder: Path
    num_frames: int
    fps: int
    width: int
    height: int
    size_bytes: int
    frames_sha256: str
    timings_s: Mapping[str, float]


class _PromptEmbeds(NamedTuple):
    """All scenes' embeddings along L, B = 1; no negative ones when nothing is guided."""

    prompts_BLD: Tensor
    negatives_BLD: Tensor | None


def run(plan: RunPlan, backend: Backend, *, reporter: Reporter, force: bool = False) -> GenerateResult:
    """Make the film of a plan.

    What can fail early is checked before any work, and nothing appears under the film's name before all its
    frames are there and verified.

    Args:
        plan: From `plan_story`.
        backend: What runs the transformer; `plan.backend` names it.
        reporter: Is told about stages, steps and warnings.
        force: Whether existing outputs are replaced.

    Raises:
        OutputError: The film or its run folder exists or cannot be written.
        PrivacyError: The film's provenance would hold a path, host or user name.
        BackendUnavailable: The backend cannot run here or on the plan's device.
        CheckpointError: The model's weights do not fit its configs.
    """
    check_outputs(plan.output, force=force)
    _check_privacy(plan)
    _check_backend(plan, backend)
    for warning in plan.warnings:
        reporter.warn(warning)
    clock = _Clock(reporter)
    embeds = _encode_prompts(plan, clock)
    latents_BFCHW = _denoise(plan, backend, embeds, clock)
    scenes = _decode(plan, latents_BFCHW, clock)
    return _write(plan, scenes, clock, force=force)


class _Clock:
    """Runs stages under a reporter and keeps how long each took."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        began_s = time.perf_counter()
        with self._reporter.stage(name, total=total) as progress:
            yield progress
        self.timings_s[name] = round(time.perf_counter() - began_s, 3)


def _check_privacy(plan: RunPlan) -> None:
    """Refuse now what `build_provenance` would refuse when all the work is done."""
    recipe = plan.recipe.model_dump(mode="json")
    told = {"recipe": recipe, "parameters": _parameters(plan), "model": {"name": plan.source.name}}
    refuse_private(without_folders(told), names=local_names())


def _check_backend(plan: RunPlan, backend: Backend) -> None:
    reason = backend.unavailable_reason(plan.device)
    if reason is not None:
        raise BackendUnavailable(f"backend {plan.backend!r}: {reason}; `m2d doctor` shows what works here")


def _encode_prompts(plan: RunPlan, clock: _Clock) -> _PromptEmbeds:
    prompts = [scene.prompt for scene in plan.scenes]
    if _guidance(plan).enabled:
        prompts += [scene.negative_prompt for scene in plan.scenes]
    with clock.stage("load text encoder"):
        encoder = load_text(plan.source, device=plan.device, dtype=_dtype(plan))
    with clock.stage("encode prompts", total=len(prompts)) as progress:
        # One at a time: with others in its batch, a prompt's embedding may differ in the last bits.
        embeds = []
        for prompt in prompts:
            embeds.append(encoder.encode([prompt]))
            progress.advance()
    # transformers' models refer to themselves in cycles: emptied, they free their memory now, not some day.
    encoder.model.to("meta")
    _free_cached()
    num_scenes = len(plan.scenes)
    return _PromptEmbeds(
        prompts_BLD=torch.cat(embeds[:num_scenes], dim=1),
        negatives_BLD=torch.cat(embeds[num_scenes:], dim=1) if len(embeds) > num_scenes else None,
    )


def _denoise(plan: RunPlan, backend: Backend, embeds: _PromptEmbeds, clock: _Clock) -> Tensor:
    with clock.stage("load transformer"):
        options = BackendOptions(device=plan.device, dtype=plan.dtype)
        denoiser = backend.prepare(plan.source, plan.layout, options)
        scheduler = scheduler_from_config(read_scheduler_config(plan.source), plan.sampling.scheduler)
    request = _request(plan, embeds)
    with clock.stage("denoise", total=plan.sampling.num_inference_steps) as progress:

        def on_step(event: StepEvent) -> None:
            del event
            progress.advance()

        latents_BFCHW = denoise(denoiser, scheduler, request, on_step=on_step)
    return latents_BFCHW.cpu()


def _request(plan: RunPlan, embeds: _PromptEmbeds) -> DenoiseRequest:
    scene = plan.scene_geometry
    channels = plan.source.geometry.latent_channels
    return DenoiseRequest(
        layout=plan.layout,
        scene_seeds=tuple(scene.seed for scene in plan.scenes),
        latent_shape=(channels, scene.latent_height, scene.latent_width),
        prompt_embeds_BLD=embeds.prompts_BLD,
        negative_embeds_BLD=embeds.negatives_BLD,
        conditioning=Conditioning(num_scenes=len(plan.scenes)),
        guidance=_guidance(plan),
        num_inference_steps=plan.sampling.num_inference_steps,
        dtype=_dtype(plan),
        device=plan.device,
    )


def _decode(plan: RunPlan, latents_BFCHW: Tensor, clock: _Clock) -> tuple[MadeScene, ...]:
    """Decode every scene on its own: its first frame needs a latent frame of its own."""
    _free_cached()
    made = []
    with clock.stage("decode", total=len(plan.scenes)) as progress:
        # float32 whatever the transformer ran in: half precision bands skies and shifts colours.
        codec = load_codec(plan.source, device=plan.device, dtype=torch.float32)
        for index, scene in enumerate(plan.scenes):
            latents_FCHW = latents_BFCHW[0, plan.layout.frame_span(index).as_slice]
            made.append(
                MadeScene(
                    prompt=scene.prompt,
                    seed=scene.seed,
                    frames_PHWC=decode_scene(codec, latents_FCHW),
                    latents_FCHW=latents_FCHW.numpy(),
                )
            )
            progress.advance()
    return tuple(made)


def _write(plan: RunPlan, scenes: tuple[MadeScene, ...], clock: _Clock, *, force: bool) -> GenerateResult:
    frames = [scene.frames_PHWC for scene in scenes]
    prompts = [scene.prompt for scene in scenes]
    with clock.stage("write"):
        provenance = _provenance(plan, scenes)
        write_film(
            plan.output,
            frames,
            fps=plan.fps,
            upscale=plan.upscale,
            title=plan.title,
            scene_prompts=prompts,
            provenance=provenance,
            force=force,
        )
        run_folder = write_run(
            plan.output,
            provenance=provenance,
            latents_FCHW=[scene.latents_FCHW for scene in scenes if scene.latents_FCHW is not None],
            timings_s=clock.timings_s,
            sheet=sheet_png(frames, prompts, title=plan.title, facts=_facts(plan)),
            force=force,
        )
    return GenerateResult(
        film=plan.output,
        run_folder=run_folder,
        num_frames=provenance.num_frames,
        fps=plan.fps,
        width=plan.scene_geometry.width * plan.upscale,
        height=plan.scene_geometry.height * plan.upscale,
        size_bytes=plan.output.stat().st_size,
        frames_sha256=provenance.frames_sha256,
        timings_s=clock.timings_s,
    )


def _provenance(plan: RunPlan, scenes: tuple[MadeScene, ...]) -> Provenance:
    return build_provenance(
        title=plan.title,
        recipe=plan.recipe.model_dump(mode="json"),
        parameters=_parameters(plan),
        model=ModelRecord(name=plan.source.name, digest=plan.source.digest),
        layout_digest=plan.layout.digest(),
        scenes=scenes,
        fps=plan.fps,
        upscale=plan.upscale,
    )


def _parameters(plan: RunPlan) -> dict[str, Any]:
    """What was run, defaults resolved."""
    return {
        "mask": plan.layout.mask,
        "num_frames_per_scene": plan.scene_geometry.num_frames,
        "height": plan.scene_geometry.height,
        "width": plan.scene_geometry.width,
        "fps": plan.fps,
        "upscale": plan.upscale,
        "scheduler": plan.sampling.scheduler or "the model's own",
        "num_inference_steps": plan.sampling.num_inference_steps,
        "cfg": plan.sampling.cfg,
        "guidance_scales": [scene.guidance_scale for scene in plan.scenes],
        "negative_prompts": [scene.negative_prompt for scene in plan.scenes],
        "backend": plan.backend,
        "device": plan.device,
        "dtype": plan.dtype,
    }


def _facts(plan: RunPlan) -> list[str]:
    seeds = sorted({scene.seed for scene in plan.scenes})
    return [
        # A sheet is passed on, and where its maker keeps models is nobody's business.
        Path(plan.source.name).name,
        f"mask {plan.layout.mask}",
        f"{plan.sampling.num_inference_steps} steps",
        f"seed {', '.join(map(str, seeds))}",
        f"{plan.backend} on {plan.device} in {plan.dtype}",
    ]


def _guidance(plan: RunPlan) -> GuidanceRule:
    return GuidanceRule(scales=tuple(scene.guidance_scale for scene in plan.scenes), mode=plan.sampling.cfg)


def _dtype(plan: RunPlan) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, plan.dtype)
    return dtype


def _free_cached() -> None:
    """Give back what torch keeps of freed memory: the next model needs it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
