"""The story as library users write it: a recipe whose mistakes are reported as `RecipeError`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from m2d.errors import RecipeError
from m2d.recipe.explain import explain
from m2d.recipe.loader import load_document
from m2d.recipe.places import Places
from m2d.recipe.schema import Recipe


class Story(Recipe):
    """A story: `Story(title="A walk", scenes=("Actor1 walks right.",), cast={"Actor1": "round red body"})`.

    Takes the fields of a recipe; every scene is its prompt, or a mapping with `prompt` and the scene's own
    fields.
    """

    def __init__(self, **fields: Any) -> None:
        """Check all fields.

        Raises:
            RecipeError: Everything that is wrong with them, with the name of the field.
        """
        if isinstance(fields.get("scenes"), list):
            fields["scenes"] = tuple(fields["scenes"])
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RecipeError(explain(error, model=Recipe, places=Places(path="story"))) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a recipe file; raises as `m2d.recipe.loader.load_document` does."""
        return load_document(Path(path), cls)
