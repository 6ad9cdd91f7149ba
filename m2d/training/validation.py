"""What watches a training: trackers, and validation films made with its current weights.

Owns the backend that runs the model in training, and the folder of the films: `validation/step-N/STORY.mp4`
in the run folder, each with its contact sheet. Trackers and stories are checked before the first step.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from m2d.backend import BackendOptions
from m2d.families.places import OpenedFolder
from m2d.families.registry import family_of
from m2d.families.source import ModelSource
from m2d.film.job import FilmJob, PlannedRun, announce
from m2d.film.make import RunOptions, make_film
from m2d.folders import make_folder
from m2d.layout import SceneLayout
from m2d.model.execution import choose_execution
from m2d.model.scene_model import SceneModel
from m2d.pipeline.planning import plan_recipe_for
from m2d.progress import Reporter
from m2d.recipe.loader import load_recipe
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.overrides import Overrides
from m2d.recipe.places import FieldsRefused
from m2d.recipe.plan import RunPlan
from m2d.training.export import use_average
from m2d.training.recipe import TrainingRecipe, ValidationRecipe
from m2d.training.start import model_geometry, settings_after
from m2d.training.state import TrainState
from m2d.training.step import TrainingSetup
from m2d.training.trackers import Trackers
from m2d.training.trainer import Watchers
from m2d.video.run_folder import SHEET, run_folder_of

FOLDER = "validation"


@dataclass(frozen=True, kw_only=True)
class SourceInTraining(ModelSource):
    """A model folder combined with a transformer in memory: the current averaged weights."""

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


def check_stories(recipe: TrainingRecipe) -> None:
    """Read the stories of the validation films.

    Raises:
        FieldsRefused: A file is not there.
        RecipeError: Everything that is wrong with a story.
    """
    stories = recipe.validation.stories if recipe.validation else ()
    missing = [
        (("validation", "stories", number), f"{story}: no such file; paths start from the working folder")
        for number, story in enumerate(stories)
        if not Path(story).is_file()
    ]
    if missing:
        raise FieldsRefused(missing)
    for story in stories:
        load_recipe(Path(story))


def plan_validation(
    source: ModelSource, stories: Sequence[str], *, folder: Path, device: str
) -> list[RunPlan]:
    """Plan a film of every story recipe; the recipes' own devices, backends and models are ignored.

    Raises:
        RecipeError: Everything that is wrong with a story.
    """
    plans = []
    for story in map(Path, stories):
        out = folder / f"{story.stem}.mp4"
        overrides = Overrides(out=out, backend="eager", device=device, dtype="float32")
        plans.append(plan_recipe_for(source, story, overrides=overrides))
    return plans


def make_validation_films(plans: Sequence[RunPlan], *, is_mixed: bool, reporter: Reporter) -> dict[str, Path]:
    """Make the films that `plan_validation` planned for a `SourceInTraining`.

    Args:
        is_mixed: Whether products are computed in bfloat16.

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


def open_watchers(setup: TrainingSetup, *, model_folder: Path, reporter: Reporter) -> Watchers:
    """Open the recipe's trackers and validation films.

    Args:
        model_folder: Folder with VAE, text encoder, tokenizer and scheduler.

    Raises:
        BackendUnavailable: A tracker's package is not installed.
        RecipeError: The model cannot make a story.
    """
    recipe, is_main = setup.recipe, setup.processes.is_main
    trackers = (
        [Trackers(recipe.trackers, run=setup.run, title=recipe.title, config=setup.facts)]
        if recipe.trackers and is_main
        else []
    )
    if recipe.validation is None:
        return Watchers(of_log=trackers)
    source = _source(setup, model_folder)
    plan_validation(source, recipe.validation.stories, folder=setup.run, device="cpu")
    films = _Films(recipe.validation, setup, source, reporter)
    return Watchers(of_log=trackers, of_steps=[films.make_if_due])


@dataclass(frozen=True)
class _Films:
    """Makes films with the averaged weights at an interval; all processes gather the weights for it."""

    recipe: ValidationRecipe
    setup: TrainingSetup
    source: ModelSource
    reporter: Reporter

    def make_if_due(self, state: TrainState) -> None:
        """Make the films when they are due.

        Raises:
            Interrupted: SIGTERM or SIGINT came while a film was made; the trainer saves a checkpoint.
        """
        if state.step % self.recipe.every_steps == 0:
            use_average(self.setup, state, lambda average: self._make(average, step=state.step))

    def _make(self, transformer: SceneModel, *, step: int) -> str:
        setup = self.setup
        source = SourceInTraining(
            transformer=transformer.to(setup.processes.device),
            **{field.name: getattr(self.source, field.name) for field in fields(ModelSource)},
        )
        folder = setup.run / FOLDER / f"step-{step:08d}"
        plans = plan_validation(
            source, self.recipe.stories, folder=folder, device=setup.processes.device.type
        )
        is_mixed = setup.recipe.precision == "bfloat16"
        for sheet in make_validation_films(plans, is_mixed=is_mixed, reporter=self.reporter).values():
            self.reporter.note(f"step {step}: {sheet}")
        return ""


def _source(setup: TrainingSetup, folder: Path) -> ModelSource:
    """Describe the model in training for the planning of stories."""
    recipe = setup.recipe
    family = family_of(folder, "vae")
    return ModelSource(
        choice=ModelChoice.model_construct(model=recipe.title),
        opened=OpenedFolder(path=folder),
        geometry=model_geometry(recipe, setup.facts["transformer"], compression=family.compression(folder)),
        family=family,
        is_puppet=recipe.data.is_puppet,
        sampling=settings_after(recipe, folder).sampling
        or family.default_sampling(setup.facts["transformer"]),
        mask=recipe.mask,
    )
