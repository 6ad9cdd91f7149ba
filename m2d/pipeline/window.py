"""What a window of a run plan asks of the model: options, guidance, scheduler, dtype and other scenes."""

# F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from m2d.backend import BackendOptions
from m2d.diffusion.guidance import GuidanceRule
from m2d.errors import UnusableState
from m2d.families.loading import load_scheduler
from m2d.model.lora_file import LoraUse
from m2d.pipeline.observer import FinishedWindow
from m2d.placement.modes import MemoryMode
from m2d.recipe.plan import RunPlan, WindowPlan
from m2d.saved_tensors import misfit

Windows = Sequence[tuple[RunPlan, WindowPlan]]


def window_options(plan: RunPlan, part: WindowPlan) -> BackendOptions:
    """Return how a window's denoiser runs: what `prepare` is given, and what a graph is exported for."""
    targets = tuple(part.window.scenes.index(scene) for scene in part.window.targets)
    is_batched = is_guided(plan, part) and plan.sampling.cfg == "batched"
    return BackendOptions(
        device=plan.device,
        dtype=plan.dtype,
        targets=targets if part.window.context else None,
        latent_size=(plan.scene_geometry.latent_height, plan.scene_geometry.latent_width),
        batch_size=2 if is_batched else 1,
        artifacts=plan.artifacts,
        loras=_window_loras(plan, part),
        memory=memory_of(plan),
        quantized=plan.quantized,
        extra=plan.backend_options,
    )


def _window_loras(plan: RunPlan, part: WindowPlan) -> tuple[LoraUse, ...]:
    """Return the run's LoRAs with their scenes counted in the window; of scenes outside it with none."""
    places = {scene: place for place, scene in enumerate(part.window.scenes)}
    return tuple(
        use
        if use.scenes is None
        else replace(use, scenes=tuple(places[scene] for scene in use.scenes if scene in places))
        for use in plan.loras
    )


def memory_of(plan: RunPlan) -> MemoryMode:
    """Return the memory mode of a run; `full` where none was chosen."""
    return "full" if plan.memory == "auto" else plan.memory


def run_scheduler(plan: RunPlan) -> Any:
    """Return the scheduler of a run, without timesteps set."""
    return load_scheduler(plan.source, plan.sampling.scheduler)


def window_guidance(plan: RunPlan, part: WindowPlan) -> GuidanceRule:
    """Return the guidance of a window's scenes."""
    scales = tuple(plan.scenes[scene].guidance_scale for scene in part.window.scenes)
    sampling = plan.sampling
    return GuidanceRule(scales=scales, mode=sampling.cfg, is_dynamic=sampling.dynamic_guidance)


def is_guided(plan: RunPlan, part: WindowPlan) -> bool:
    """Whether negative prompts matter for any target of a window."""
    targets = tuple(part.window.scenes.index(scene) for scene in part.window.targets)
    return window_guidance(plan, part).enabled_for(targets)


def run_dtype(plan: RunPlan) -> torch.dtype:
    """Return what text encoder and transformer of a run compute in."""
    dtype: torch.dtype = getattr(torch, plan.dtype)
    return dtype


def context_latents(plan: RunPlan, part: WindowPlan, latents_FCHW: Mapping[int, Tensor]) -> Tensor:
    """Return the latents of all scenes of a window, (1, F, C, H, W), zeros where its targets belong."""
    shape = plan.scene_geometry
    size = (plan.source.geometry.latent_channels, shape.latent_height, shape.latent_width)
    parts = [
        torch.zeros(plan.scenes[scene].geometry.num_latent_frames, *size)
        if scene in part.window.targets
        else latents_FCHW[scene]
        for scene in part.window.scenes
    ]
    return torch.cat(parts)[None]


def needed_scenes(windows: Windows) -> set[int]:
    """Return the scenes that windows are given as context, or continue, before a window makes them."""
    needed: set[int] = set()
    made: set[int] = set()
    for plan, part in windows:
        continued = {scene - 1 for scene in part.window.targets if plan.scenes[scene].join.kind == "continue"}
        needed |= {*part.window.context, *continued} - made
        made |= set(part.window.targets)
    return needed


def label_of(scenes: Sequence[int]) -> str:
    """Return `scenes 1-3`, counted from 1 as users do."""
    first, last = scenes[0] + 1, scenes[-1] + 1
    return f"scene {first}" if first == last else f"scenes {first}-{last}"


def check_finished(window: FinishedWindow, plan: RunPlan, part: WindowPlan) -> FinishedWindow:
    """Return a window that an earlier run finished.

    Raises:
        UnusableState: Its scenes or their latents are not those of the plan.
    """
    if set(window.latents_FCHW) != set(part.window.targets):
        raise UnusableState(f"window {window.index + 1} holds other scenes than it makes")
    for scene, latents_FCHW in window.latents_FCHW.items():
        shape = plan.scenes[scene].geometry
        wanted = (
            shape.num_latent_frames,
            plan.source.geometry.latent_channels,
            shape.latent_height,
            shape.latent_width,
        )
        problem = misfit(latents_FCHW, dtype=torch.float32, shape=wanted)
        if problem:
            raise UnusableState(f"the latents of scene {scene + 1}: {problem}")
    return window
