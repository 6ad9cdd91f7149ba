"""Stories that other systems wrote, as recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from m2d.errors import RecipeError
from m2d.recipe.figure5 import load_figure5
from m2d.recipe.loader import fit_document
from m2d.recipe.places import ParsedText, Place, Places, place_problem, show
from m2d.recipe.schema import Recipe
from m2d.recipe.story_layouts import LAYOUTS, SharedStory, unread_fields
from m2d.recipe.text_file import read_text
from m2d.recipe.yaml_text import parse_json

_FIGURE5 = "Figure 5 of the paper (a list with background and descriptions)"
_LONGEST_SETTING = 500
_LONGEST_TITLE = 80
_MOST_NAMED = 12
# Keys under which requests nest their fields.
_NESTED = ("input", "parameters")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedStory:
    """A story as a recipe.

    Attributes:
        layout: Name of the system whose layout it was in.
        dropped: What was not read, because it has no counterpart in a recipe.
    """

    recipe: Recipe
    layout: str
    dropped: tuple[str, ...] = ()


def import_stories(path: Path) -> list[ImportedStory]:
    """Read the stories of a JSON, JSON Lines or text file in any layout of `LAYOUTS`, or of Figure 5.

    Raises:
        RecipeError: The file cannot be read, is in another layout, or its texts are none that a recipe may
            have.
    """
    found: list[ImportedStory] = []
    for parsed in _documents(path):
        if _is_figure5(parsed.value):
            return [ImportedStory(recipe=recipe, layout="Figure 5") for recipe in load_figure5(path)]
        found += _stories(parsed, path, first=len(found))
    return found


def _documents(path: Path) -> list[ParsedText]:
    """Return the documents of a file: one, or of JSON Lines one for each line."""
    try:
        text, name = read_text(path), str(path)
    except RecipeError as error:
        # A new recipe would not help: this file has the stories.
        raise RecipeError(list(error.problems)) from error
    if path.suffix.lower() == ".jsonl":
        lines = [line for line in text.splitlines() if line.strip()]
        return [parse_json(line, name=f"{name}: line {at}") for at, line in enumerate(lines, start=1)]
    if not text.lstrip().startswith(("{", "[")) or text.lstrip().lower().startswith("[global caption]"):
        # A prompt as it stands.
        return [ParsedText(value={"prompt": text}, places=Places(path=name))]
    return [parse_json(text, name=name)]


def _stories(parsed: ParsedText, path: Path, *, first: int) -> list[ImportedStory]:
    data = _flat(parsed.value)
    layout = next((layout for layout in LAYOUTS if layout.is_of(data)), None)
    if layout is None:
        known = "; ".join([_FIGURE5, *(f"{layout.name} ({layout.fields})" for layout in LAYOUTS)])
        message = f"holds stories in no layout that m2d knows: {known}"
        raise RecipeError([place_problem(str(path), Place(), message)])
    loaded = fit_document(data, layout.model, places=parsed.places).value
    unread = [show(name).strip("'") for name in unread_fields(loaded) if name not in _NESTED]
    if len(unread) > _MOST_NAMED:
        unread[_MOST_NAMED:] = [f"{len(unread) - _MOST_NAMED} more"]
    stories = cast(Any, loaded).stories()
    return [
        ImportedStory(
            recipe=_recipe(story, path, number=first + at, is_alone=len(stories) == 1),
            layout=layout.name,
            dropped=(*unread, *story.dropped),
        )
        for at, story in enumerate(stories, start=1)
    ]


def _recipe(story: SharedStory, path: Path, *, number: int, is_alone: bool) -> Recipe:
    fallback = path.stem if is_alone and path.suffix.lower() != ".jsonl" else f"{path.stem} {number}"
    is_setting = 0 < len(story.shared) <= _LONGEST_SETTING
    scenes = tuple(
        scene if is_setting or not story.shared else {**scene, "prompt": f"{story.shared} {scene['prompt']}"}
        for scene in story.scenes
    )
    sampling: dict[str, Any] = {"negative_prompt": story.negative_prompt} if story.negative_prompt else {}
    if story.seed is not None:
        sampling["seed"] = story.seed
    document = {
        "title": _title(story.name) or fallback,
        "scenes": scenes,
        **({"setting": story.shared} if is_setting else {}),
        **({"sampling": sampling} if sampling else {}),
    }
    return fit_document(document, Recipe, places=Places(path=str(path))).value


def _title(text: str) -> str:
    first = re.split(r"(?<=[.!?])\s", " ".join(text.split()))[0].rstrip(".")
    return first if len(first) <= _LONGEST_TITLE else first[:_LONGEST_TITLE].rpartition(" ")[0]


def _flat(data: object) -> object:
    """Return a request with the fields that it nests at its top."""
    if not isinstance(data, Mapping):
        return data
    nested = [part for name in _NESTED if isinstance(part := data.get(name), Mapping)]
    flat = dict(data)
    for part in nested:
        flat |= part
    return flat


def _is_figure5(data: object) -> bool:
    return (
        isinstance(data, tuple)
        and bool(data)
        and all(
            isinstance(entry, Mapping) and {"background", "descriptions"} & entry.keys() for entry in data
        )
    )
