"""Validation films: made during a training with its current weights, like any other film.

Owns the backend that runs the model in training, and the folder of the films: `validation/step-N/STORY.mp4`
in the run folder, each with its contact sheet.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from m2d.backend import BackendOptions
from m2d.families.source import ModelSource
from m2d.film.job import FilmJob, PlannedRun, announce
from m2d.film.make import RunOptions, make_film
from m2d.folders import make_folder
from m2d.layout import SceneLayout
from m2d.model.execution import choose_execution
from m2d.model.scene_model import SceneModel
from m2d.pipeline.planning import plan_recipe_for
from m2d.progress import Reporter
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan
from m2d.video.run_folder import SHEET, run_folder_of

FOLDER = "validation"


@dataclass(frozen=True, kw_only=True)
class SourceInTraining(ModelSource):
    """A model folder combined with a transformer in memory.

    Attributes:
        transformer: The current averaged weights.
    """

    transformer: SceneModel

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights' names and values."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.transformer.state_dict().items()):
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


class BackendInTraining:
    """Runs the transformer of a `SourceInTraining`; `release` keeps it in memory."""

    name: ClassVar[str] = "eager"

    def __init__(self, *, is_mixed: bool) -> None:
        """Choose the precision; `is_mixed` computes products in bfloat16, as the training does."""
        self._is_mixed = is_mixed

    def unavailable_reason(self, device: str | None = None) -> None:
        """Return None: the weights are in memory already."""
        del device

    def prepare(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions
    ) -> _DenoiserInTraining:
        """Bind the transformer to a layout."""
        assert isinstance(source, SourceInTraining)
        targets = tuple(range(layout.num_scenes)) if options.targets is None else options.targets
        return _DenoiserInTraining(source.transformer, layout, targets, is_mixed=self._is_mixed)

    def release(self) -> None:
        """Keep the weights, which the training still needs."""


class _DenoiserInTraining:
    def __init__(
        self, transformer: SceneModel, layout: SceneLayout, targets: tuple[int, ...], *, is_mixed: bool
    ) -> None:
        self.layout, self.targets = layout, targets
        self._transformer, self._is_mixed = transformer, is_mixed

    @torch.inference_mode()
    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the velocity; see `m2d.backend.Denoiser`."""
        with torch.autocast(latents_BFCHW.device.type, torch.bfloat16, enabled=self._is_mixed):
            velocity_BFCHW: Tensor = self._transformer(
                latents_BFCHW,
                prompt_embeds_BLD,
                timesteps_BN,
                layout=self.layout,
                targets=self.targets,
                # Autocast does not reach products that are written in place.
                execution="joined" if self._is_mixed else choose_execution(self.layout),
            )
        return velocity_BFCHW.float()


def plan_validation(
    source: ModelSource, stories: Sequence[str], *, folder: Path, device: str
) -> list[RunPlan]:
    """Plan a film of every story, so that a wrong story is reported before hours of training.

    Args:
        source: The model.
        stories: Recipe files.
        folder: Folder of the films.
        device: Device that makes them; the recipes' own devices, backends and models are ignored.

    Raises:
        RecipeError: Everything that is wrong with a story.
    """
    return [_plan(source, Path(story), folder=folder, device=device) for story in stories]


def _plan(source: ModelSource, story: Path, *, folder: Path, device: str) -> RunPlan:
    overrides = Overrides(out=folder / f"{story.stem}.mp4", backend="eager", device=device, dtype="float32")
    return plan_recipe_for(source, story, overrides=overrides)


def make_validation_films(plans: Sequence[RunPlan], *, is_mixed: bool, reporter: Reporter) -> dict[str, Path]:
    """Make the films.

    Args:
        plans: From `plan_validation`, for a `SourceInTraining`.
        is_mixed: Whether products are computed in bfloat16.
        reporter: Receives stages, steps and warnings.

    Returns:
        Contact sheets by story.

    Raises:
        OutputError: The disk refused.
        Interrupted: SIGTERM or SIGINT came.
    """
    backend = BackendInTraining(is_mixed=is_mixed)
    sheets = {}
    for plan in plans:
        make_folder(plan.output.parent)
        job = FilmJob(runs=(PlannedRun(kind="generate", plan=plan),))
        announce(job, reporter)
        make_film(job, backend, reporter=reporter, options=RunOptions(force=True))
        sheets[plan.output.stem] = run_folder_of(plan.output) / SHEET
    return sheets
