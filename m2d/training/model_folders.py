"""The folders that a training takes its model from: found or downloaded, and checked before it begins.

Owns what is refused from configs and headers alone; loads nothing.
"""

from __future__ import annotations

from m2d.diffusion.velocity import VelocitySchedule
from m2d.families.loading import check_components, check_parts, load_scheduler
from m2d.families.opening import part_folder
from m2d.families.registry import family_of
from m2d.model.components import read_config
from m2d.progress import Reporter
from m2d.training.frozen import FROZEN_PARTS
from m2d.training.recipe import TrainingRecipe
from m2d.training.start import scene_geometries
from m2d.training.state import FOLDER as CHECKPOINTS


def check_models(recipe: TrainingRecipe, downloads: Reporter) -> None:
    """Make sure that the models of a recipe are here and can be trained; hub models are downloaded.

    Raises:
        CheckpointError: A folder is missing or incomplete, or a tensor is missing or of another model.
        SchedulerError: The scheduler does not predict velocity.
        InputError: The model cannot make scenes of the recipe's size, or cannot be trained.
        HubUnavailable: A hub does not answer.
    """
    folder = part_folder(recipe.model, downloads)
    check_components(folder, FROZEN_PARTS)
    check_parts(folder, FROZEN_PARTS)
    VelocitySchedule.from_scheduler(load_scheduler(folder))
    if recipe.transformer is not None:
        return
    start = part_folder(recipe.init, downloads)
    if (start / CHECKPOINTS).is_dir() or not (start / "transformer").is_dir():
        # Reading the start says what is wrong with these.
        return
    check_components(start, ["transformer"])
    check_parts(start, ["transformer"])
    config = {
        key: value for key, value in read_config(start, "transformer").items() if not key.startswith("_")
    }
    scene_geometries(recipe, config, compression=family_of(folder).compression(folder))
