"""Where the LoRAs of a film lie: its record names files without folders, and a run names files by path.

A given file that the film was made with stands for the recorded one, at the recorded strength; any other
given file replaces the recorded ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from m2d.errors import CheckpointError
from m2d.folders import with_home
from m2d.model.lora_file import lora_digest
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import ExistingFilm
from m2d.recipe.schema import LoraChoice, Recipe

LoraPaths = Mapping[str, LoraChoice]
"""The sha256 of recorded LoRAs to the given file."""


def located(
    given: Sequence[LoraChoice], recorded: Iterable[LoraChoice]
) -> tuple[LoraPaths, list[LoraChoice]]:
    """Return the given files that were recorded, and the other given files."""
    known = {choice.sha256 for choice in recorded}
    paths: dict[str, LoraChoice] = {}
    others = []
    for choice in given:
        try:
            sha256 = lora_digest(with_home(choice.path))
        except (OSError, CheckpointError):
            # Planning reports it.
            sha256 = ""
        if sha256 in known:
            paths[sha256] = choice
        else:
            others.append(choice)
    return paths, others


def at_paths(recipe: Recipe, paths: LoraPaths) -> Recipe:
    """Return a recipe with the paths of its recorded LoRAs."""
    return recipe.model_copy(update={"loras": tuple(_at_path(choice, paths) for choice in recipe.loras)})


def with_lora_files(
    recipe: Recipe, film: ExistingFilm | None, overrides: Overrides
) -> tuple[Recipe, ExistingFilm | None, Overrides]:
    """Use the given files for recorded LoRAs of the recipe and of the film's scenes."""
    if not overrides.loras:
        return recipe, film, overrides
    of_scenes = [choice for scene in (film.scenes if film else ()) for choice in scene.loras]
    paths, others = located(overrides.loras, [*recipe.loras, *of_scenes])
    if film is not None:
        scenes = [
            replace(scene, loras=tuple(_at_path(choice, paths) for choice in scene.loras))
            for scene in film.scenes
        ]
        film = replace(film, scenes=tuple(scenes))
    recipe = at_paths(recipe, paths)
    if not others:
        return recipe, film, replace(overrides, loras=None)
    of_recipe = {choice.sha256 for choice in recipe.loras}
    kept = [choice for sha256, choice in paths.items() if sha256 in of_recipe]
    return recipe, film, replace(overrides, loras=(*kept, *others))


def _at_path(choice: LoraChoice, paths: LoraPaths) -> LoraChoice:
    given = paths.get(choice.sha256 or "")
    if given is None:
        return choice
    changes: dict[str, object] = {"path": given.path}
    if "scale" in given.model_fields_set:
        changes["scale"] = given.scale
    return choice.model_copy(update=changes)
