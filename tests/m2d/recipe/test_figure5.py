"""Stories in the form of the paper's Figure 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2d.errors import RecipeError
from m2d.recipe.cast import scene_prompt
from m2d.recipe.figure5 import load_figure5
from m2d.recipe.loader import parse_document
from m2d.recipe.schema import Recipe
from m2d.recipe.writer import to_yaml

BROWN = "Actor1 (short brown hair, green hoodie, worn sneakers)"
BLONDE = "Actor2 (long blonde hair, blue dress, carrying a sketchpad)"

ONE = {"name": "Actor1", "description": "short brown hair, green hoodie, worn sneakers"}
TWO = {"name": "Actor2", "description": "long blonde hair, blue dress, carrying a sketchpad"}


def entry(**changes: Any) -> dict[str, Any]:
    """Return the paper's own example, with changes."""
    return {
        "scene": 1,
        "background": "City Park at Dusk",
        "characters": [ONE, TWO],
        "descriptions": [
            f"{BROWN} sits on a bench overlooking the pond.",
            f"{BLONDE} walks by and notices {BROWN} gazing at the water.",
            f"{BROWN} glances at {BLONDE} as she sketches.",
        ],
    } | changes


def write(folder: Path, document: object) -> Path:
    """Write `document` as JSON."""
    path = folder / "figure5.json"
    path.write_text(json.dumps(document, indent=1))
    return path


def test_the_paper_s_example_becomes_a_recipe(tmp_path: Path) -> None:
    (recipe,) = load_figure5(write(tmp_path, [entry()]))
    assert recipe.title == recipe.setting == "City Park at Dusk"
    assert recipe.scenes[1].prompt == "Actor2 walks by and notices Actor1 gazing at the water."
    assert recipe.output == "scene-001-city-park-at-dusk.mp4"


def test_the_expanded_prompts_are_exactly_those_of_the_file(tmp_path: Path) -> None:
    (recipe,) = load_figure5(write(tmp_path, [entry()]))
    prompts = [scene_prompt(scene.prompt, cast=recipe.cast, setting=None) for scene in recipe.scenes]
    assert prompts == entry()["descriptions"]


def test_lower_case_actors_are_spelled_like_the_characters(tmp_path: Path) -> None:
    (recipe,) = load_figure5(write(tmp_path, [entry(descriptions=[BROWN.lower() + " waves."])]))
    assert scene_prompt(recipe.scenes[0].prompt, cast=recipe.cast, setting=None) == f"{BROWN} waves."


def test_imported_stories_survive_being_written_as_yaml(tmp_path: Path) -> None:
    recipes = load_figure5(
        write(tmp_path, [entry(), entry(scene=2, background="\u201cCaf\u00e9\u201d: noon \U0001f600")])
    )
    assert [parse_document(to_yaml(recipe), Recipe, name="x.yaml").value for recipe in recipes] == recipes


def complaints(folder: Path, document: object) -> list[str]:
    """Return the problems of a file."""
    path = write(folder, document)
    with pytest.raises(RecipeError) as error:
        load_figure5(path)
    return [str(problem).removeprefix(f"{path}:") for problem in error.value.problems]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scene": "1"}, "3:12: [0].scene: expected a whole number, got '1'"),
        ({"backgruond": "x"}, "[0].backgruond: unknown key; did you mean background?"),
        ({"background": ""}, "4:17: [0].background: is empty; write at least one word"),
        ({"descriptions": []}, "[0].descriptions: needs at least 1 of them, got 0"),
        ({"descriptions": ["Actor3 waves."]}, "Actor3 is not among the characters (Actor1, Actor2)"),
        ({"background": "Actor7's house"}, "[0].background: Actor7 is not among the characters"),
        ({"descriptions": ["a\u0007b"]}, "[0].descriptions[0]: holds the forbidden character U+0007"),
        ({"characters": [{"name": "Actor1"}, TWO]}, "[0].characters[0].description: is missing; add it"),
        ({"characters": [ONE, TWO, ONE]}, "[0].characters[2].name: 'Actor1' is given twice"),
        ({"characters": [ONE, TWO, {"name": "An actor", "description": "x"}]}, "is no actor's name"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    found = complaints(tmp_path, [entry(**changes)])
    assert len(found) == 1
    assert message in found[0]


def test_all_problems_of_all_stories_are_reported_at_once(tmp_path: Path) -> None:
    found = complaints(tmp_path, [entry(background=5), entry(descriptions="x"), entry(scene=1)])
    assert [line.split(": ")[1] for line in found] == [
        "[0].background",
        "[1].scene",
        "[1].descriptions",
        "[2].scene",
    ]


@pytest.mark.parametrize("document", [{}, [], 5, None, [5], [[]]])
def test_another_form_is_refused(tmp_path: Path, document: object) -> None:
    assert complaints(tmp_path, document)


def test_a_model_that_is_none_is_refused_without_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="model: 'https://x' is an address"):
        load_figure5(write(tmp_path, [entry()]), model="https://x")
