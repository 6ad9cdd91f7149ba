"""Open a recipe's trackers and validation films.

Both are checked before the first step, so that errors appear before hours of training.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from m2d.families.registry import family_of
from m2d.families.source import ModelSource
from m2d.model.scene_model import SceneModel
from m2d.progress import Reporter
from m2d.training.export import use_average
from m2d.training.recipe import ValidationRecipe
from m2d.training.start import model_geometry
from m2d.training.state import TrainState
from m2d.training.step import TrainingSetup
from m2d.training.trackers import Trackers
from m2d.training.trainer import Watchers
from m2d.training.validation import FOLDER, SourceInTraining, make_validation_films, plan_validation


def open_watchers(setup: TrainingSetup, *, model_folder: Path, reporter: Reporter) -> Watchers:
    """Open the recipe's trackers and validation films.

    Args:
        setup: The training.
        model_folder: Folder with VAE, text encoder, tokenizer and scheduler.
        reporter: Receives the progress of the films.

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
    # Report wrong stories now.
    plan_validation(source, recipe.validation.stories, folder=setup.run, device="cpu")
    films = _Films(recipe.validation, setup=setup, source=source, reporter=reporter)
    return Watchers(of_log=trackers, of_steps=[films])


class _Films:
    """Makes films with the averaged weights at an interval; all processes gather the weights for it."""

    def __init__(
        self,
        recipe: ValidationRecipe,
        *,
        setup: TrainingSetup,
        source: ModelSource,
        reporter: Reporter,
    ) -> None:
        self._recipe, self._setup, self._source = recipe, setup, source
        self._reporter = reporter

    def after_step(self, state: TrainState) -> None:
        """Make the films when they are due.

        Raises:
            Interrupted: SIGTERM or SIGINT came while a film was made; the trainer saves a checkpoint.
        """
        if state.step % self._recipe.every_steps == 0:
            use_average(self._setup, state, lambda average: self._make(average, step=state.step))

    def _make(self, transformer: SceneModel, *, step: int) -> str:
        setup = self._setup
        source = SourceInTraining(
            transformer=transformer.to(setup.processes.device),
            **{field.name: getattr(self._source, field.name) for field in fields(ModelSource)},
        )
        folder = setup.run / FOLDER / f"step-{step:08d}"
        plans = plan_validation(
            source, self._recipe.stories, folder=folder, device=setup.processes.device.type
        )
        is_mixed = setup.recipe.precision == "bfloat16"
        for sheet in make_validation_films(plans, is_mixed=is_mixed, reporter=self._reporter).values():
            self._reporter.note(f"step {step}: {sheet}")
        return ""


def _source(setup: TrainingSetup, folder: Path) -> ModelSource:
    """Describe the model in training for the planning of stories."""
    recipe = setup.recipe
    family = family_of(folder, "vae")
    return ModelSource(
        name=recipe.title,
        path=folder,
        geometry=model_geometry(recipe, setup.facts["transformer"], compression=family.compression(folder)),
        family=family,
        is_puppet=recipe.data.is_puppet,
        mask=recipe.mask,
    )
