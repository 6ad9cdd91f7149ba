from __future__ import annotations

from pathlib import Path

from benchmarks.evaluation_stories import FOLDER, NUM_STORIES, recipe_of, texts
from m2d.puppet.captions import plain_caption
from m2d.puppet.story import sample_story
from m2d.recipe.cast import find_mentions, scene_prompt
from m2d.recipe.loader import load_recipe

WRITTEN = Path(FOLDER).parent / "m2d-story-50"


def test_puppet_stories_are_those_that_the_command_writes() -> None:
    assert {path.name: path.read_text("ascii") for path in FOLDER.iterdir()} == texts()
    assert len(texts()) == NUM_STORIES


def test_prompts_of_a_puppet_story_are_its_captions() -> None:
    story = sample_story(seed=5, index=4, num_scenes=3, changing=1.0)
    recipe = recipe_of(story, number=1)
    for scene, drawn in zip(recipe.scenes, story.scenes, strict=True):
        prompt = scene_prompt(scene.prompt, cast=recipe.cast, setting=scene.setting or recipe.setting)
        assert prompt == plain_caption(story, drawn)


def test_written_stories_have_three_scenes_one_to_three_actors_and_a_place_of_their_own() -> None:
    recipes = [load_recipe(path) for path in sorted(WRITTEN.iterdir())]
    assert len(recipes) == len({recipe.title for recipe in recipes}) == 50
    assert len({recipe.setting for recipe in recipes}) == 50
    assert {len(recipe.scenes) for recipe in recipes} == {3}
    assert {len(recipe.cast) for recipe in recipes} == {1, 2, 3}
    for recipe in recipes:
        named = {
            mention.name for scene in recipe.scenes for mention in find_mentions(scene.prompt, recipe.cast)
        }
        assert named == set(recipe.cast)
        assert all(find_mentions(scene.prompt, recipe.cast) for scene in recipe.scenes)
