"""A recipe in the form in which films and journals store it, which older versions of m2d wrote, too.

A record is untrusted data: it is validated like any recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from m2d.recipe.schema import LoraChoice, Recipe
from m2d.video.privacy import last_part
from m2d.video.provenance import RunRecord

# Fields of the backend that change no frame: a run resumes, and is made again, with others.
_NO_FRAMES = ("memory", "decode")


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a film stores it.

    A number for `upscale` stands for `nearest`: films of older versions have no other filter.
    """
    document = recipe.model_dump(mode="json")
    for name in _NO_FRAMES:
        document["backend"].pop(name, None)
    if "quantize" in document["backend"]:
        # A record names no place.
        document["backend"]["quantize"] = PurePath(recipe.backend.quantize).name
    upscale = recipe.video.upscale
    if upscale.factor == 1 or upscale.filter == "nearest":
        document["video"]["upscale"] = upscale.factor
    return document


def as_recipe(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored recipe in the form of a recipe file; it may be invalid.

    Older versions of m2d gave a model the last scenes alone, and recorded no choice.
    """
    document = {"context": "recent", **document}
    video = document.get("video")
    if not isinstance(video, Mapping) or type(video.get("upscale")) is not int:
        return document
    upscale = {"factor": video["upscale"], "filter": "nearest"}
    return {**document, "video": {**video, "upscale": upscale}}


def without_places(recipe: Recipe) -> Recipe:
    """Return a stored recipe whose files are named without folders: a record names no place."""
    scenes = tuple(
        scene.model_copy(update={"image": _file_name(scene.image)}) if scene.image else scene
        for scene in recipe.scenes
    )
    backend = recipe.backend.model_copy(update={"quantize": _file_name(recipe.backend.quantize)})
    changes = {"loras": tuple(map(_named, recipe.loras)), "scenes": scenes, "backend": backend}
    return recipe.model_copy(update=changes | ({"image": _file_name(recipe.image)} if recipe.image else {}))


def _file_name(path: str) -> str:
    return PurePath(last_part(path)).name or "unnamed"


def _named(choice: LoraChoice) -> LoraChoice:
    return choice.model_copy(update={"path": _file_name(choice.path)})


def loras_of_scene(run: RunRecord, scene: int) -> tuple[LoraChoice, ...]:
    """Return the LoRAs of its own that a run made a scene of the story with; of an invalid record none."""
    made = sorted(run.made_in)
    try:
        choices = TypeAdapter(tuple[LoraChoice, ...]).validate_json(json.dumps(run.recipe.get("loras", [])))
    except ValidationError:
        return ()
    if scene not in made:
        return ()
    number = made.index(scene) + 1
    return tuple(
        _named(choice).model_copy(update={"scenes": None})
        for choice in choices
        if choice.scenes is not None and number in choice.scenes
    )
