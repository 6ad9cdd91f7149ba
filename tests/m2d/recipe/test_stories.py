"""The recipes that come with the project, and the one that `m2d init` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from m2d.puppet.vocabulary import ACTIONS, COLOURS, HATS, KNOWN_WORDS, SETTINGS, SHAPES, TIMES
from m2d.recipe.loader import load_recipe, parse_document
from m2d.recipe.schema import BackendChoice, Recipe, Sampling, Scene, Video
from m2d.recipe.template import story_template
from m2d.recipe.text_file import check_characters
from m2d.recipe.words import unknown_words
from m2d.tasks.check import check

STORIES = sorted((Path(__file__).parents[3] / "recipes" / "stories").glob("*.yaml"))
LONG = "the-long-goodbye"


def refuse_foreign_words(recipe: Recipe) -> None:
    """Assert that the puppet theatre was trained on everything the story says."""
    known = {f"{setting} at {time}" for setting in SETTINGS for time in TIMES}
    assert {scene.setting or recipe.setting for scene in recipe.scenes} <= known
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
    assert recipe.model == "builtin:puppet-large"
    assert len(recipe.scenes) == (12 if path.stem == LONG else 3)
    # The model's own sizes, so that `--model builtin:puppet` makes a quick draft of it.
    assert (recipe.video.num_frames, recipe.video.height, recipe.video.width) == (None, None, None)
    assert recipe.output == f"{path.stem}.mp4"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_shipped_story_is_planned_without_a_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Elsewhere a film of its name may be in the way.
    monkeypatch.chdir(tmp_path)
    assert check(path).warnings == ()


def test_the_long_story_shows_what_long_stories_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = (path for path in STORIES if path.stem == LONG)
    plan = check(path).plan
    assert [len(part.window.targets) for part in plan.windows] == [3] + [1] * 9
    kinds = [scene.join.kind for scene in plan.scenes]
    assert (kinds.count("continue"), kinds.count("crossfade")) == (1, 2)
    # One who continues a scene has to be in it.
    before, scene = (load_recipe(path).scenes[kinds.index("continue") + step].prompt for step in (-1, 0))
    assert re.findall(r"Actor\d", before) == re.findall(r"Actor\d", scene)
    casts = {tuple(re.findall(r"Actor\d", scene.prompt)) for scene in load_recipe(path).scenes}
    assert casts == {("Actor1",), ("Actor2",), ("Actor1", "Actor2")}


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


@pytest.mark.parametrize("part", [Recipe, Scene, Sampling, Video, BackendChoice])
def test_the_template_names_every_field(part: type[BaseModel]) -> None:
    named = set(re.findall(r"^ *(?:- )?(?:# )?(\w+):", story_template(), flags=re.MULTILINE))
    assert set(part.model_fields) <= named


def test_what_the_template_offers_in_comments_works() -> None:
    text = re.sub(r"^    # (\w+: .*)$", r"    \1", story_template(), flags=re.MULTILINE)
    scene = parse_document(text, Recipe, name="story.yaml").value.scenes[1]
    assert scene.model_fields_set == set(Scene.model_fields)
    assert scene.frames == 17


@pytest.mark.parametrize("title", ["no", "a: b # c", 'say "x"', "{braces}", "\\", "14", "\u96ea"])
def test_the_template_takes_any_title(title: str) -> None:
    text = story_template(title=title, file_name="x\ny.yaml")
    check_characters(text, name="story.yaml")
    assert parse_document(text, Recipe, name="story.yaml").value.title == title
