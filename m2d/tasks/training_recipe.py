"""The recipe of a training and its run folder, from a command's arguments. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2d.errors import InputError, RecipeError, Remedy
from m2d.recipe.loader import load_document, load_with_places
from m2d.recipe.places import FieldsRefused
from m2d.recipe.settings import Setting
from m2d.training.recipe import TrainingRecipe


def load_training_recipe(
    path: Path,
    *,
    stage: str | None = None,
    model: str | None = None,
    init: str | None = None,
    settings: Sequence[Setting] = (),
) -> TrainingRecipe:
    """Load a training recipe.

    Args:
        stage: Must be the recipe's own, when given.
        model: Model folder, instead of the recipe's.
        init: What the training starts from, instead of the recipe's.
        settings: Fields that replace those of the recipe.

    Raises:
        RecipeError: The recipe or a setting is wrong.
        InputError: An option contradicts the recipe, or the file is a dataset.
    """
    if path.is_dir() or path.suffix.lower() in (".csv", ".jsonl"):
        raise InputError(f"{path}: is a dataset, not a training recipe", remedy=Remedy.TRAIN_ON_CLIPS)
    try:
        recipe = load_document(path, TrainingRecipe, settings=settings)
    except RecipeError as error:
        if error.remedy is not Remedy.WRITE_RECIPE:
            raise
        raise RecipeError(list(error.problems), remedy=Remedy.TRAIN_ON_CLIPS) from error
    if stage is not None and stage != recipe.stage:
        raise InputError(
            f"{path} is a recipe for stage {recipe.stage}; give that recipe", argument=f"stage {stage}"
        )
    if init == "random" and recipe.transformer is None:
        raise InputError(
            f"{path} gives no transformer sizes; add a transformer section", argument="init random"
        )
    changes: dict[str, Any] = {"model": model, "init": init}
    changes = {name: value for name, value in changes.items() if value is not None}
    if init not in (None, "random"):
        # The sizes are those of the weights that the training starts from.
        changes["transformer"] = None
    return recipe.model_copy(update=changes)


@contextmanager
def naming_places(path: Path | None, *, settings: Sequence[Setting] = ()) -> Iterator[None]:
    """Give what the model refuses of a recipe, while the block runs, its file and line; None has no file.

    Raises:
        RecipeError: In place of FieldsRefused.
    """
    try:
        yield
    except FieldsRefused as error:
        if path is None:
            raise
        places = load_with_places(path, TrainingRecipe, settings=settings).places
        raise error.placed(places) from error


def run_folder_for(recipe: Path) -> Path:
    """Return the run folder of a recipe, or of clips, that are not given one: `runs/NAME`."""
    return Path("runs") / (recipe.resolve().stem or "clips")
