"""The recipes that come with the project, and the one that `m2d init` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2d.puppet.vocabulary import ACTIONS, COLOURS, HATS, KNOWN_WORDS, SETTINGS, SHAPES, TIMES
from m2d.recipe.loader import load_recipe, parse_document
from m2d.recipe.schema import Recipe
from m2d.recipe.template import story_template
from m2d.recipe.text_file import check_characters
from m2d.recipe.words import unknown_words

STORIES = sorted((Path(__file__).parents[3] / "recipes" / "stories").glob("*.yaml"))


def refuse_foreign_words(recipe: Recipe) -> None:
    """Assert that the puppet theatre was trained on everything the story says."""
    assert recipe.setting in {f"{setting} at {time}" for setting in SETTINGS for time in TIMES}
    looks = {f"{shape} {colour} body, {hat}" for shape in SHAPES for colour in COLOURS for hat in HATS}
    assert set(recipe.cast.values()) <= looks
    sentences = {f"{name} {action}" for name in recipe.cast for action in ACTIONS}
    for scene in recipe.scenes:
        assert set(scene.prompt.removesuffix(".").split(". ")) <= sentences
        assert unknown_words(scene.prompt, KNOWN_WORDS) == []


def test_there_are_at_least_six_stories_and_the_demo_s_is_one() -> None:
    assert len(STORIES) >= 6
    assert "first-snow.yaml" in {path.name for path in STORIES}


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_shipped_story_is_valid_and_within_the_world_of_the_puppets(path: Path) -> None:
    recipe = load_recipe(path)
    refuse_foreign_words(recipe)
    assert recipe.model == "builtin:puppet"
    assert len(recipe.scenes) == 3
    assert (recipe.video.num_frames, recipe.video.height, recipe.video.width) == (9, 64, 64)
    assert recipe.output == f"{path.stem}.mp4"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_shipped_story_s_header_says_how_to_run_it(path: Path) -> None:
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("# ") for line in header.splitlines())
    assert "# Makes: " in header
    assert "# Needs: " in header
    assert f"# Run:   m2d generate recipes/stories/{path.name}" in header


def test_stories_differ_in_cast_setting_and_arc() -> None:
    recipes = [load_recipe(path) for path in STORIES]
    assert len({tuple(recipe.cast.values()) for recipe in recipes}) == len(recipes)
    assert len({recipe.setting for recipe in recipes}) == len(recipes)
    assert len({recipe.scenes for recipe in recipes}) == len(recipes)
    assert {recipe.setting.split()[0] for recipe in recipes if recipe.setting} == set(SETTINGS)


def test_the_template_is_a_story_that_works() -> None:
    recipe = parse_document(story_template(), Recipe, name="story.yaml").value
    refuse_foreign_words(recipe)
    assert recipe.title == "My first story"
    assert recipe.output == "my-first-story.mp4"


@pytest.mark.parametrize("title", ["no", "a: b # c", 'say "x"', "{braces}", "\\", "14", "\u96ea"])
def test_the_template_takes_any_title(title: str) -> None:
    text = story_template(title=title, file_name="x\ny.yaml")
    check_characters(text, name="story.yaml")
    assert parse_document(text, Recipe, name="story.yaml").value.title == title
