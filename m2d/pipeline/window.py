"""What a window of a run plan asks of the model: backend options, guidance, scheduler and dtype."""

from __future__ import annotations

from typing import Any

import torch

from m2d.backend import BackendOptions
from m2d.diffusion.guidance import GuidanceRule
from m2d.families.loading import load_scheduler
from m2d.recipe.plan import RunPlan, WindowPlan


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
        extra=plan.backend_options,
    )


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
