"""The fields of a recipe that say which model makes the film, and how a run replaces them.

Checks form only; `m2d.families.opening` finds the folders and files.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from m2d.recipe.fields import DEFAULT_MODEL, ModelName

PARTS = ("transformer", "vae", "text_encoder")
"""Parts of a model that may come from another place."""
# Films of older versions have no such fields.
_UNRECORDED_IF_NONE = Field(exclude_if=lambda value: value is None)
_Part = Annotated[ModelName | None, _UNRECORDED_IF_NONE]
_Revision = Annotated[str | None, Field(pattern=r"^[\w./-]{1,200}$"), _UNRECORDED_IF_NONE]
_Variant = Annotated[str | None, Field(pattern=r"^[\w-]{1,40}$"), _UNRECORDED_IF_NONE]
RecipeT = TypeVar("RecipeT", bound="ModelChoice")


class ModelChoice(BaseModel):
    """A model, and where its parts come from.

    Attributes:
        model: `builtin:puppet-large`, `builtin:puppet`, a model folder, or the id of a model on a hub.
        revision: Branch, tag or commit of a model on a hub.
        variant: Weights such as `fp16`, which lie in files of that name beside the others.
        transformer: A folder, a hub id or a safetensors file in place of the model's own; so are `vae` and
            `text_encoder`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    model: ModelName = DEFAULT_MODEL
    revision: _Revision = None
    variant: _Variant = None
    transformer: _Part = None
    vae: _Part = None
    text_encoder: _Part = None

    @property
    def parts(self) -> dict[str, str]:
        """The parts that come from another place."""
        return {name: place for name in PARTS if (place := getattr(self, name)) is not None}

    def __str__(self) -> str:
        """Name the model and the parts that come from another place."""
        parts = ", ".join(f"{name.replace('_', ' ')} {place}" for name, place in self.parts.items())
        return f"{self.model} ({parts})" if parts else self.model


MODEL_FIELDS = tuple(ModelChoice.model_fields)


def choice_of(recipe: ModelChoice) -> ModelChoice:
    """Return the model fields of a recipe."""
    return ModelChoice(**{name: getattr(recipe, name) for name in MODEL_FIELDS})


def with_choice(recipe: RecipeT, choice: ModelChoice) -> RecipeT:
    """Return the recipe with all its model fields replaced."""
    return recipe.model_copy(update={name: getattr(choice, name) for name in MODEL_FIELDS})


def with_given(recipe: RecipeT, given: ModelChoice | str | None) -> RecipeT:
    """Return the recipe with the model fields that were given for one run.

    Another model replaces revision, variant and parts, too: those of the recipe belong to its own model.
    """
    if given is None:
        return recipe
    if isinstance(given, str):
        given = ModelChoice(model=given)
    if "model" in given.model_fields_set:
        return with_choice(recipe, given)
    return recipe.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})
