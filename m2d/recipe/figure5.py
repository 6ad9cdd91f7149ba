"""Imports stories in the format of the paper's evaluation set (Mask2DiT, Figure 5) as recipes.

The format is a JSON list of `{scene, background, characters: [{name, description}], descriptions: [...]}`.
Each entry is a story, and each description is a scene of it that repeats the cast in brackets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from m2d.errors import RecipeError
from m2d.recipe.cast import respell_actors, shorten_prompt, unknown_actors
from m2d.recipe.explain import explain
from m2d.recipe.fields import DEFAULT_MODEL, ActorName, Phrase, Prompt, Title, default_output
from m2d.recipe.loader import parse_document
from m2d.recipe.places import KeyPath, Places, show
from m2d.recipe.schema import FieldProblem, Recipe, Scene
from m2d.recipe.text_file import read_text
from m2d.recipe.yaml_text import parse_json


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Character(_Part):
    name: ActorName
    description: Phrase


class _Entry(_Part):
    scene: Annotated[int, Field(ge=0, le=1_000_000)]
    background: Title
    characters: Annotated[tuple[_Character, ...], Field(max_length=50)]
    descriptions: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=500)]


class Figure5(RootModel[Annotated[tuple[_Entry, ...], Field(min_length=1)]]):
    """The whole file."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def cross_field_problems(cls, data: object) -> list[FieldProblem]:
        """Return duplicate numbers and names, and actors that are not among the characters."""
        if not isinstance(data, tuple):
            return []
        problems = _repeated([((index, "scene"), _get(entry, "scene")) for index, entry in enumerate(data)])
        for index, entry in enumerate(data):
            problems += _entry_problems(index, entry)
        return problems


def load_figure5(path: Path, *, model: str = DEFAULT_MODEL) -> list[Recipe]:
    """Load every story of a file in the paper's format.

    Returns:
        One recipe per entry. The background becomes the setting. Brackets that repeat the cast are removed,
        since expanding the cast restores them exactly.

    Raises:
        RecipeError: The file cannot be read or has another format; all problems together.
    """
    loaded = parse_document(read_text(path), Figure5, name=str(path), parse=parse_json)
    try:
        return [_story(entry, model=model) for entry in loaded.value.root]
    except ValidationError as error:
        # Only the model's name, which is not in the file, can still be invalid.
        raise RecipeError(explain(error, model=Recipe, places=Places(path=str(path)))) from error


def _story(entry: _Entry, *, model: str) -> Recipe:
    cast = {character.name: character.description for character in entry.characters}
    # In this format descriptions say actor1, while the characters are named Actor1.
    cast = {name: respell_actors(text, cast) for name, text in cast.items()}
    prompts = [respell_actors(description, cast) for description in entry.descriptions]
    return Recipe(
        title=entry.background,
        model=model,
        cast=cast,
        setting=respell_actors(entry.background, cast),
        scenes=tuple(Scene(prompt=shorten_prompt(prompt, cast)) for prompt in prompts),
        output=f"scene-{entry.scene:03d}-{default_output(entry.background)}",
    )


def _entry_problems(index: int, entry: object) -> list[FieldProblem]:
    characters, descriptions = _get(entry, "characters"), _get(entry, "descriptions")
    if not isinstance(characters, tuple) or not isinstance(descriptions, tuple):
        return []
    names = [_get(character, "name") for character in characters]
    texts: list[tuple[KeyPath, object]] = [(("background",), _get(entry, "background"))]
    texts += [
        (("characters", at, "description"), _get(character, "description"))
        for at, character in enumerate(characters)
    ]
    texts += [(("descriptions", at), text) for at, text in enumerate(descriptions)]
    problems = _repeated([((index, "characters", at, "name"), name) for at, name in enumerate(names)])
    cast = {name: "" for name in names if isinstance(name, str)}
    for key_path, text in texts:
        respelled = respell_actors(text, cast) if isinstance(text, str) else ""
        problems += [
            FieldProblem((index, *key_path), f"{name} is not among the characters ({', '.join(cast)})")
            for name in unknown_actors(respelled, cast)
        ]
    return problems


def _repeated(values: list[tuple[KeyPath, object]]) -> list[FieldProblem]:
    seen: set[object] = set()
    problems = []
    for key_path, value in values:
        if not isinstance(value, str | int):
            continue
        if value in seen:
            problems.append(FieldProblem(key_path, f"{show(value)} is given twice; use every one once"))
        seen.add(value)
    return problems


def _get(entry: object, key: str) -> object:
    return entry.get(key) if isinstance(entry, Mapping) else None
