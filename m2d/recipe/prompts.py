"""A story from prompts alone, without a recipe file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from m2d.errors import InputError, RecipeError
from m2d.recipe.cast import described_actors, unknown_actors
from m2d.recipe.loader import Loaded, fit_document
from m2d.recipe.overrides import COMMAND_LINE
from m2d.recipe.places import shows_nothing
from m2d.recipe.schema import Recipe
from m2d.recipe.settings import Setting

_MAX_TITLE_CHARACTERS = 60
_BRACKETS = re.compile(r"\s*\([^()]*\)")


def story_of_prompts(prompts: Sequence[str], *, settings: Sequence[Setting] = ()) -> Loaded[Recipe]:
    """Return a story of one scene for each prompt; descriptions such as `Actor1 (red ball)` are its cast.

    Raises:
        InputError: A prompt names an actor that no prompt describes.
        RecipeError: A prompt or a setting is not valid in a recipe.
    """
    cast = described_actors(prompts)
    if not any(setting.key_path[0] == "cast" for setting in settings):
        _check_described(prompts, cast)
    document = {
        "title": _title(prompts[0]),
        "cast": cast,
        "scenes": tuple({"prompt": prompt} for prompt in prompts),
    }
    try:
        return fit_document(document, Recipe, places=COMMAND_LINE, settings=settings)
    except RecipeError as error:
        # Nobody gave the title: what is wrong with it is wrong with the prompt.
        given = [problem for problem in error.problems if problem.field != "title"]
        raise RecipeError(given or list(error.problems)) from error


def _check_described(prompts: Sequence[str], cast: Mapping[str, str]) -> None:
    for number, prompt in enumerate(prompts, start=1):
        argument = f"prompt {number}" if len(prompts) > 1 else "prompt"
        for name in unknown_actors(prompt, cast):
            if prompt.count("(") != prompt.count(")"):
                message = f"a bracket has no partner; describe {name} as in {name} (tall green body)"
                raise InputError(message, argument=argument)
            message = f"{name} is not described; describe it once: {name} (tall green body)"
            raise InputError(message, argument=argument)


def _title(prompt: str) -> str:
    """Return the first words of a prompt, without descriptions and without the last full stop."""
    text = " ".join(_BRACKETS.sub("", prompt).split())
    if len(text) > _MAX_TITLE_CHARACTERS:
        text = text[:_MAX_TITLE_CHARACTERS].rpartition(" ")[0] or text[:_MAX_TITLE_CHARACTERS]
    return "Untitled" if shows_nothing(text.rstrip(" .,;:")) else text.rstrip(" .,;:")
