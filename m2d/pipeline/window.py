"""What a window of a run plan asks of the model: backend options, guidance, scheduler and dtype."""

from __future__ import annotations

from typing import Any

import torch

from m2d.backend import BackendOptions
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.model.checkpoint import read_scheduler_config
from m2d.recipe.plan import RunPlan, WindowPlan


def window_options(plan: RunPlan, part: WindowPlan) -> BackendOptions:
    """How a window's denoiser is to run: what `prepare` is given, and what a graph is exported for."""
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
    return scheduler_from_config(read_scheduler_config(plan.source), plan.sampling.scheduler)


def window_guidance(plan: RunPlan, part: WindowPlan) -> GuidanceRule:
    scales = tuple(plan.scenes[scene].guidance_scale for scene in part.window.scenes)
    return GuidanceRule(scales=scales, mode=plan.sampling.cfg)


def is_guided(plan: RunPlan, part: WindowPlan) -> bool:
    window = part.window
    return window_guidance(plan, part).enabled_for(
        tuple(window.scenes.index(scene) for scene in window.targets)
    )


def run_dtype(plan: RunPlan) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, plan.dtype)
    return dtype
