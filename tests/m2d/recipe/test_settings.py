"""Fields given for one run, and what is suggested for a key that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2d.errors import InputError, RecipeError
from m2d.recipe.loader import fit_document, load_with_places
from m2d.recipe.places import Places
from m2d.recipe.schema import Recipe
from m2d.recipe.settings import parse_settings
from m2d.training.recipe import TrainingRecipe

STORY = """\
title: A walk
cast: {Actor1: red ball}
scenes:
  - Actor1 walks.
  - {prompt: Actor1 waves., seed: 8}
sampling: {num_inference_steps: 4}
"""


def loaded(tmp_path: Path, *settings: str, story: str = STORY) -> Recipe:
    path = tmp_path / "story.yaml"
    path.write_text(story)
    return load_with_places(path, Recipe, settings=parse_settings(settings)).value


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("sampling.seed=3", "sampling.seed", 3),
        ("sampling.guidance_scale=2", "sampling.guidance_scale", 2.0),
        ("video.fps=null", "video.fps", None),
        ("video={fps: 4, upscale: 2}", "video.upscale.factor", 2),
        ("video.match_colour=true", "video.match_colour", True),
        ("title='3'", "title", "3"),
        ("title=Walk #3: the end", "title", "Walk #3: the end"),
        ("backend.options.scope=whole", "backend.options", {"scope": "whole"}),
        ("cast.Actor1=blue [tall] ball", "cast", {"Actor1": "blue [tall] ball"}),
    ],
)
def test_any_field_can_be_set(tmp_path: Path, setting: str, field: str, value: object) -> None:
    found: object = loaded(tmp_path, setting)
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize("path", ["scenes[0]", "scenes.0"])
def test_a_field_of_a_scene_can_be_set_also_in_its_short_form(tmp_path: Path, path: str) -> None:
    recipe = loaded(tmp_path, f"{path}.seed=5", "scenes[1].prompt=Actor1 jumps.")
    assert [(scene.prompt, scene.seed) for scene in recipe.scenes] == [
        ("Actor1 walks.", 5),
        ("Actor1 jumps.", 8),
    ]


def test_a_wrong_value_of_the_file_can_be_replaced(tmp_path: Path) -> None:
    story = STORY.replace("num_inference_steps: 4", "num_inference_steps: many, num_inference_steps: 2")
    assert loaded(tmp_path, "sampling.num_inference_steps=9", story=story).sampling.num_inference_steps == 9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.sed=3", "set sampling.sed: unknown key; did you mean seed?"),
        ("sampling.seed=-3", "set sampling.seed: must be at least 0, got -3"),
        ("sampling.seed=three", "set sampling.seed: expected a whole number, got 'three'"),
        ("scenes[0].prompt=Actor2 waves.", r"set scenes\[0\].prompt: Actor2 is not in the cast"),
        ("scenes[0]={seed: 1}", r"set scenes\[0\].prompt: is missing"),
        ("scenes[2].seed=3", r"set scenes\[2\]: there is no such entry; the recipe has scenes\[0\] to"),
        ("scenes.first.seed=3", r"set scenes.first: scenes is a list; give a number, such as scenes\[0\]"),
        ("title.x=3", "set title.x: title is 'A walk', which has no fields"),
        ("cast[0]=x", r"set cast\[0\]: cast has fields, not numbers"),
    ],
)
def test_a_wrong_setting_is_named_with_its_field(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^command line: {message}"):
        loaded(tmp_path, setting)


@pytest.mark.parametrize(
    "text", ["", "sampling.seed", "=3", ".seed=3", "a..b=3", "a.=3", "scenes[x]=3", "a b=3"]
)
def test_a_text_that_is_no_setting_is_rejected_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"^set: .*use FIELD=VALUE, such as sampling.seed=3"):
        parse_settings([text])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["sampling.seed=1", "sampling.seed=2"], "set sampling.seed: given twice, as 1 and 2"),
        (["scenes[0]=a", "scenes.0=b"], r"set scenes\['0'\]: given twice, as 'a' and 'b'"),
        (
            ["scenes[0].seed=3", "scenes[0]=Actor1 waves."],
            r"set scenes\[0\]: given twice, because scenes\[0\].seed is given",
        ),
        (["video={fps: 4}", "video.fps=3"], r"set video.fps: given twice, because video is given"),
        (["sampling={seed: 1, seed: 2}"], "set sampling: duplicate key"),
        (["video=[1"], "set video: not valid YAML"),
        ([f"sampling.seed={'9' * 50}"], "set sampling.seed: a number of 50 characters"),
    ],
)
def test_a_value_that_cannot_be_read_is_rejected(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        parse_settings(texts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sampling: {steps: 4}", "sampling.steps: unknown key; did you mean num_inference_steps?"),
        ("sampling: {cfg_scale: 4}", "sampling.cfg_scale: unknown key; did you mean guidance_scale?"),
        ("sampling: {numInferenceSteps: 4}", "unknown key; did you mean num_inference_steps?"),
        ("sampling: {stesp: 4}", "sampling.stesp: unknown key; did you mean num_inference_steps?"),
        ("seed: 4", "seed: unknown key; did you mean sampling.seed?"),
        ("fps: 4", "fps: unknown key; did you mean video.fps?"),
        ("frame_rate: 4", "frame_rate: unknown key; did you mean video.fps?"),
        ("characters: {}", "characters: unknown key; did you mean cast?"),
        ("video: {steps: 4}", "video.steps: unknown key; did you mean sampling.num_inference_steps?"),
        ("xylophone: 4", "xylophone: unknown key; known here: title, model"),
    ],
)
def test_an_unknown_key_names_the_field_that_is_meant(tmp_path: Path, line: str, message: str) -> None:
    story = STORY.replace("sampling: {num_inference_steps: 4}", line)
    with pytest.raises(RecipeError) as error:
        loaded(tmp_path, story=story)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_train_steps", "steps"),
        ("learning_rate", "optimizer.lr"),
        ("lora_rank", "lora.rank"),
        ("gradient_accumulation_steps", "accumulate"),
    ],
)
def test_words_of_other_training_programs_are_known(key: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: unknown key; did you mean {meant}\?"):
        fit_document({key: 1}, TrainingRecipe, places=Places(path="train.yaml"))
