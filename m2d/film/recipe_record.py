"""A recipe in the form in which films and journals store it, which older versions of m2d wrote, too.

A record is untrusted data: it is validated like any recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2d.recipe.schema import Recipe


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a film stores it.

    A number for `upscale` stands for `nearest`: films of older versions have no other filter.
    """
    document = recipe.model_dump(mode="json")
    upscale = recipe.video.upscale
    if upscale.factor == 1 or upscale.filter == "nearest":
        document["video"]["upscale"] = upscale.factor
    return document


def as_recipe(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored recipe in the form of a recipe file; it may be invalid."""
    video = document.get("video")
    if not isinstance(video, Mapping) or type(video.get("upscale")) is not int:
        return document
    upscale = {"factor": video["upscale"], "filter": "nearest"}
    return {**document, "video": {**video, "upscale": upscale}}
