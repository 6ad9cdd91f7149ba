"""Loading story recipes: what is accepted, and every refusal with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from m2d.diffusion.schedulers import SCHEDULERS
from m2d.errors import RecipeError
from m2d.recipe import explain
from m2d.recipe.loader import load_document, load_recipe, parse_document
from m2d.recipe.schema import Recipe, Scene, SchedulerName
from m2d.recipe.yaml_text import MAX_PROBLEMS, parse_json

STORY = """\
title: First snow
cast:
  Actor1: round red body, wool cap
  Actor2: square blue body, no hat
setting: snowfield at dusk
scenes:
  - Actor1 walks right.
  - prompt: >
      Actor2
      waves.
    seed: 3
  - Actor1 bows. Actor2 bows.
"""


def complaints(tmp_path: Path, text: str) -> list[str]:
    """Return the problems of a recipe, without the folder."""
    path = tmp_path / "story.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert error.value.exit_code == 2
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in error.value.problems]


def test_a_story_is_loaded_with_its_shorthand_scenes(tmp_path: Path) -> None:
    path = tmp_path / "story.yaml"
    path.write_text(STORY)
    recipe = load_recipe(path)
    assert recipe.scenes[0] == Scene(prompt="Actor1 walks right.")
    assert recipe.scenes[1] == Scene(prompt="Actor2 waves.", seed=3)
    assert recipe.model == "builtin:puppet-large"
    assert recipe.sampling.seed == 0


def test_the_names_of_schedulers_are_those_that_can_be_built() -> None:
    assert set(get_args(SchedulerName)) == set(SCHEDULERS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: First snow", "title: 2024", "1:8: title: expected text, got 2024; put it in quotes"),
        (
            "title: First snow",
            "title:",
            "1:7: title: expected text, got nothing; give a value or remove the key",
        ),
        ("title: First snow", "# none", "2:1: title: is missing; add it"),
        ("setting:", "seting:", "5:1: seting: unknown key; did you mean setting?"),
        ("    seed: 3", "    sede: 3", "11:5: scenes[1].sede: unknown key; did you mean seed?"),
        ("    seed: 3", "    seed: 3.0", "11:11: scenes[1].seed: expected a whole number, got 3.0"),
        ("    seed: 3", "    seed: yes", "11:11: scenes[1].seed: expected a whole number, got 'yes'"),
        ("    seed: 3", "    seed: true", "11:11: scenes[1].seed: expected a whole number, got true"),
        ("    seed: 3", "    seed: -1", "11:11: scenes[1].seed: must be at least 0, got -1"),
        (
            "    seed: 3",
            "    seed: 9223372036854775808",
            "11:11: scenes[1].seed: must be at most 9223372036854775807, got 9223372036854775808",
        ),
        (
            "    seed: 3",
            "    guidance_scale: .inf",
            "11:21: scenes[1].guidance_scale: expected a finite number, got inf",
        ),
        (
            "- Actor1 walks right.",
            "- '\u3000\u200b\ufe0f'",
            "7:5: scenes[0].prompt: holds U+200B, which shows nothing",
        ),
        ("- Actor1 walks right.", "- ''", "7:5: scenes[0].prompt: is empty; write at least one word"),
        (
            "- Actor1 walks right.",
            '- "wa\\x1b[31mves"',
            "7:5: scenes[0]: holds the forbidden character U+001B; remove it",
        ),
        (
            "- Actor1 walks right.",
            "- Actor3 walks right.",
            "7:5: scenes[0].prompt: Actor3 is not in the cast (Actor1, Actor2); add Actor3 to it",
        ),
        (
            "- Actor1 walks right.",
            "- actor1 walks right.",
            "7:5: scenes[0].prompt: actor1 is not in the cast (Actor1, Actor2); write Actor1",
        ),
        (
            "- Actor1 walks right.",
            "- {setting: Actor3's house, prompt: Actor1 walks right.}",
            "7:15: scenes[0].setting: Actor3 is not in the cast (Actor1, Actor2); add Actor3 to it",
        ),
        (
            "- Actor1 walks right.",
            "- 5",
            "7:5: scenes[0]: expected a prompt, or `prompt:` with more keys, got 5",
        ),
        (
            "  Actor1: round",
            "  The hero: round",
            "3:3: cast['The hero']: 'The hero' is no actor's name; use one word",
        ),
        ("round red body, wool cap", "''", "3:11: cast.Actor1: is empty; write at least one word"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in STORY
    found = complaints(tmp_path, STORY.replace(old, new, 1))
    assert any(line.startswith(f"story.yaml:{message}") for line in found), found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mask: maskdit", "mask: 'maskdit' is not known; use one of isolated, mask2dit, shared-text"),
        ("mask: window:0", "mask: 'window:0' is not known"),
        ("model: https://x.org/m", "model: 'https://x.org/m' is an address; models are local"),
        ("model: file:///m", "model: 'file:///m' is an address"),
        ("model: //host/m", "model: '//host/m' is an address"),
        ("model: s3://b/m", "model: 's3://b/m' is an address"),
        ("backend: {device: gpu}", "backend.device: 'gpu' is not known; use cpu, cuda or cuda:N"),
        (
            "backend: {dtype: fp16}",
            "backend.dtype: 'fp16' is not known; use one of 'float32', 'bfloat16', 'float16'",
        ),
        ("backend: {name: ../x}", "backend.name: '../x' is no backend's name, such as eager"),
        (
            "sampling: {scheduler: pndm}",
            "sampling.scheduler: 'pndm' is not known; use one of 'ddim', 'dpm', 'dpm++'",
        ),
        ("sampling: {num_inference_steps: 0}", "sampling.num_inference_steps: must be at least 1, got 0"),
        ("sampling: [1]", "sampling: expected a mapping (lines of `key: value`), got a list of 1"),
        ("video: {num_frames: '9'}", "video.num_frames: expected a whole number, got '9'"),
        ("video: {upscale: 65}", "video.upscale: must be at most 64, got 65"),
        ("video: {upscale: 0}", "video.upscale: must be at least 1, got 0"),
        ("video: {upscale: {factor: 65}}", "video.upscale.factor: must be at most 64, got 65"),
        ("video: {upscale: {filter: nearest}}", "video.upscale.factor: is missing; add it"),
        ("video: {upscale: {factor: 2, filter: cubic}}", "video.upscale.filter: "),
        ("video: {upscale: big}", "video.upscale: expected a factor such as 5, or {factor: 5, filter: near"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(tmp_path: Path, line: str, message: str) -> None:
    found = complaints(tmp_path, f"{STORY}{line}\n")
    assert len(found) == 1
    assert message in found[0]
    assert found[0].startswith("story.yaml:13:")


def test_a_story_without_scenes_is_refused(tmp_path: Path) -> None:
    assert complaints(tmp_path, "title: x\nscenes: []\n") == [
        "story.yaml:2:9: scenes: needs at least 1 of them, got 0"
    ]
    assert complaints(tmp_path, "title: x\n") == ["story.yaml:1:1: scenes: is missing; add it"]


@pytest.mark.parametrize("text", ["just words\n", "- a\n- b\n", "5\n", "~\n"])
def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "expected a mapping (lines of `key: value`)" in complaints(tmp_path, text)[0]


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x.mp4", "../x.mp4", "a/b.mp4", "a\\b.mp4", "C:x.mp4", "..", ".", ".mp4", "~x.mp4", "-x.mp4",
        "x.MP4 ", "nul.mp4", "COM1.mp4", "x.mp4.exe", "x .mp4", "concat:a.mp4", "x\u200b.mp4", "x.avi",
        "a" * 250 + ".mp4", "file://x.mp4", "%2e%2e/x.mp4", "x?.mp4", "",
    ],
)  # fmt: skip
def test_an_output_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    found = complaints(tmp_path, f'{STORY}output: "{name}"\n'.replace("\\", "\\\\"))
    assert len(found) == 1
    assert "output: " in found[0]
    assert "give a file name such as first-snow.mp4 (the command line takes any path)" in found[0]


def test_all_problems_of_a_recipe_are_reported_at_once_in_reading_order(tmp_path: Path) -> None:
    found = complaints(
        tmp_path,
        "titel: x\ncast: {Actor1: red, Actor1: blue}\nscenes:\n  - Actor2 waves.\n"
        "  - prompt: ''\n    seed: a\nvideo: {fps: &a 8}\nmask: none\n",
    )
    assert [(line.split(":")[1], line.split(": ")[1]) for line in found] == [
        ("1", "title"),
        ("1", "titel"),
        ("2", "cast.Actor1"),
        ("4", "scenes[0].prompt"),
        ("5", "scenes[1].prompt"),
        ("6", "scenes[1].seed"),
        ("7", "video.fps"),
        ("8", "mask"),
    ]


def test_thousands_of_problems_are_cut_to_a_readable_number(tmp_path: Path) -> None:
    found = complaints(tmp_path, STORY + "".join(f"key{i}: 1\n" for i in range(3000)))
    assert len(found) == MAX_PROBLEMS + 1
    assert "and 2950 more problems" in found[-1]


def test_messages_hold_no_character_that_steers_a_terminal(tmp_path: Path) -> None:
    found = complaints(tmp_path, '"ti\\x1btle": "[red]x\\x07"\n"a\\tb": 1\n')
    assert all(character.isprintable() for line in found for character in line)


def test_markup_in_prompts_is_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "story.yaml"
    path.write_text("title: x\nscenes: ['a cat [/]', '[bold]x[/bold]']\n")
    assert [scene.prompt for scene in load_recipe(path).scenes] == ["a cat [/]", "[bold]x[/bold]"]


def test_rules_between_fields_hold_for_recipes_built_in_code() -> None:
    with pytest.raises(ValueError, match="Actor2 is not in the cast"):
        Recipe(title="x", cast={"Actor1": "red"}, scenes=(Scene(prompt="Actor2 waves."),))


def test_a_recipe_inside_a_film_is_checked_like_any_other() -> None:
    text = '{"title": "x", "scenes": ["a"], "output": "../x.mp4"}'
    with pytest.raises(RecipeError, match=r"film\.mp4:1:43: output: '\.\./x\.mp4' holds one of"):
        parse_document(text, Recipe, name="film.mp4", parse=parse_json)


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    held_out: int = 1
    sizes: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _any(cls, data: Any) -> Any:
        return data

    @model_validator(mode="after")
    def _leaves_some(self) -> _Data:
        if self.held_out > 5:
            raise ValueError(f"held_out: {self.held_out} leaves nothing; use less")
        return self


class _Other(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    data: _Data | None = None
    more: dict[str, _Data] = {}
    many: tuple[_Data, ...] = ()


def test_any_model_gets_places_and_suggestions(tmp_path: Path) -> None:
    path = tmp_path / "training.yaml"
    path.write_text(
        "data:\n  held_out: 9\nmore:\n  x: {helt_out: 1}\nmany:\n  - {hold_out: 2}\n  - {sizes: [1, a]}\n"
    )
    with pytest.raises(RecipeError) as error:
        load_document(path, _Other)
    assert [str(problem).removeprefix(f"{path}:") for problem in error.value.problems] == [
        "2:13: data.held_out: 9 leaves nothing; use less",
        "4:7: more.x.helt_out: unknown key; did you mean held_out?",
        "6:6: many[0].hold_out: unknown key; did you mean held_out?",
        "7:17: many[1].sizes[1]: expected a whole number, got 'a'",
    ]


def test_no_message_about_a_recipe_shows_a_pattern() -> None:
    patterns = set(re.findall(r'"pattern": ("[^"]*")', json.dumps(Recipe.model_json_schema())))
    assert patterns
    assert {json.loads(pattern) for pattern in patterns} <= set(explain._PATTERNS)
    with pytest.raises(RecipeError, match=r"variant: expected 1 to 40 letters, digits, _ and -, got '../x'$"):
        parse_document(STORY + "variant: ../x\n", Recipe, name="story.yaml")
