"""Stories of other systems become recipes: their layouts here are written as those systems document them."""

import json
from pathlib import Path
from typing import Any

import pytest

from m2d.errors import RecipeError
from m2d.recipe.schema import Recipe
from m2d.recipe.story_import import import_stories

HOLOCINE = {
    "global_caption": "A dim study. [character1] is an old man in a grey coat. This scene contains 2 shots.",
    "shot_captions": ["Medium shot of [character1] at a desk.", "Close-up of [character1]'s hands."],
    "negative_prompt": "blurry",
    "num_frames": 241,
    "shot_cut_frames": [121],
}
HOLOCINE_TEXT = (
    "[global caption] A dim study. [character1] is an old man in a grey coat. This scene contains 2 shots. "
    "[per shot caption] Medium shot of [character1] at a desk. |\n"
    "[shot cut] Close-up of [character1]'s hands."
)
STORYMEM = {
    "story_name": "The ferry",
    "story_overview": "A boy misses the ferry and swims after it.",
    "scenes": [
        {"scene_num": 1, "video_prompts": ["A boy runs.", "The boy waves."], "cut": ["True", "False"]},
        {"scene_num": 2, "video_prompts": ["The boy swims."], "cut": [True], "first_frame_prompt": "Sea."},
    ],
}
TTT = [
    {"text": "A cat sleeps.", "requires_scene_transition": False},
    {"text": "The cat wakes.", "requires_scene_transition": False, "neg_text": "dog"},
    {"text": "The cat eats.", "requires_scene_transition": True},
]
RELAY = {
    "global_prompt": "Plain shapes on white.",
    "local_prompts": [" A green cube appears.", " A blue ball appears."],
    "time_intervals": [[0.0, 3.0], [2.0, 5.0]],
}
KLING = {
    "model": "kling-3.0/video",
    "input": {
        "multi_shots": True,
        "multi_prompt": [
            {"prompt": "A rocket starts.", "duration": "4"},
            {"prompt": "It climbs.", "duration": 4},
        ],
        "negative_prompt": "text",
    },
}
WAN = {
    "model": "wan2.6-t2v",
    "input": {"prompt": "A watch on a desk. Shot 1 [0-3s] A man looks at it. Shot 2 [3-5s]: The dial."},
    "parameters": {"shot_type": "multi", "seed": 12, "duration": 5, "size": "1280*720"},
}


def imported(tmp_path: Path, content: object, name: str = "my story.json") -> list[Any]:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return import_stories(path)


def scenes_of(recipe: Recipe) -> list[tuple[str, object]]:
    return [(scene.prompt, scene.join) for scene in recipe.scenes]


@pytest.mark.parametrize(("content", "name"), [(HOLOCINE, "a.json"), (HOLOCINE_TEXT, "a.txt")])
def test_holocine_s_global_caption_is_the_setting(tmp_path: Path, content: object, name: str) -> None:
    (story,) = imported(tmp_path, content, name)
    assert story.layout == "HoloCine"
    assert story.recipe.setting == "A dim study. character1 is an old man in a grey coat."
    assert scenes_of(story.recipe) == [
        ("Medium shot of character1 at a desk.", None),
        ("Close-up of character1's hands.", None),
    ]
    if name == "a.json":
        assert story.recipe.sampling.negative_prompt == "blurry"
        assert set(story.dropped) == {"shot_cut_frames", "num_frames"}


def test_a_global_caption_too_long_for_a_setting_begins_every_prompt(tmp_path: Path) -> None:
    long = "A room. " * 100
    (story,) = imported(tmp_path, HOLOCINE | {"global_caption": long})
    assert story.recipe.setting is None
    assert all(scene.prompt.startswith("A room. A room.") for scene in story.recipe.scenes)


def test_prompts_of_storymem_without_a_cut_continue(tmp_path: Path) -> None:
    (story,) = imported(tmp_path, STORYMEM)
    assert (story.recipe.title, story.dropped) == (
        "The ferry",
        ("scene_num", "first_frame_prompt"),
    )
    assert scenes_of(story.recipe) == [
        ("A boy runs.", None),
        ("The boy waves.", "continue"),
        ("The boy swims.", None),
    ]


def test_segments_of_ttt_without_a_transition_continue(tmp_path: Path) -> None:
    (story,) = imported(tmp_path, TTT)
    assert scenes_of(story.recipe) == [
        ("A cat sleeps.", None),
        ("The cat wakes.", "continue"),
        ("The cat eats.", None),
    ]
    assert [scene.negative_prompt for scene in story.recipe.scenes] == [None, "dog", None]
    two = imported(tmp_path, "\n".join([json.dumps(TTT), json.dumps(TTT[:2])]), "two.jsonl")
    assert [(each.recipe.title, len(each.recipe.scenes)) for each in two] == [("two 1", 3), ("two 2", 2)]


def test_captions_of_talc_are_scenes_of_one_story_or_of_several(tmp_path: Path) -> None:
    (story,) = imported(tmp_path, ["A koala climbs.", "It naps."])
    assert (story.layout, story.recipe.title) == ("TALC", "my story")
    several = imported(tmp_path, {"Polar Bear_4": ["It walks."], "Owl_5": ["It flies.", "It lands."]})
    assert [each.recipe.title for each in several] == ["Polar Bear 4", "Owl 5"]


def test_spans_of_prompt_relay_continue_under_its_global_prompt(tmp_path: Path) -> None:
    (story,) = imported(tmp_path, RELAY)
    assert story.recipe.setting == "Plain shapes on white."
    assert scenes_of(story.recipe) == [("A green cube appears.", None), ("A blue ball appears.", "continue")]


def test_shots_of_kling_and_wan_are_scenes(tmp_path: Path) -> None:
    (story,) = imported(tmp_path, KLING)
    assert scenes_of(story.recipe) == [("A rocket starts.", None), ("It climbs.", None)]
    assert (story.recipe.sampling.negative_prompt, story.dropped) == (
        "text",
        ("model", "multi_shots", "duration"),
    )
    options = {"mode": "pro", "\x1b[2J": 1, "cfg": None}
    assert imported(tmp_path, RELAY | options)[0].dropped[-2:] == ("mode", r"\x1b[2J")
    many = imported(tmp_path, RELAY | {f"option{n}": n for n in range(20)})[0].dropped
    assert (len(many), many[-1]) == (13, f"{len(RELAY) + 20 - 2 - 12} more")
    (story,) = imported(tmp_path, WAN)
    assert scenes_of(story.recipe) == [("A man looks at it.", None), ("The dial.", None)]
    assert (story.recipe.setting, story.recipe.sampling.seed) == ("A watch on a desk.", 12)
    chinese = "\u7b2c1\u4e2a\u955c\u5934[0-3\u79d2] A man. \u7b2c2\u4e2a\u955c\u5934[3-5\u79d2] A dial."
    (story,) = imported(tmp_path, {"prompt": chinese, "shot_type": "multi"})
    assert scenes_of(story.recipe) == [("A man.", None), ("A dial.", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"shots": [{"text": "a"}]},
            r"in no layout that m2d knows: Figure 5 .*HoloCine .*StoryMem .*Kling .*Wan .*TALC",
        ),
        ("once upon a time", "in no layout that m2d knows"),
        ("[]", "in no layout that m2d knows"),
        (HOLOCINE | {"shot_captions": [3]}, r"shot_captions\[0\]"),
        (
            {"scenes": [{"video_prompts": ["a"], "cut": ["maybe"]}]},
            r"cut\[0\]: expected true or false, got 'maybe'",
        ),
        ({"scenes": [{"video_prompts": ["a", "b"], "cut": [True]}]}, "cut has 1 entries for 2 video_prompts"),
        ({"prompt": "A chef cooks.", "shot_type": "multi"}, "prompt names no shots"),
        ([{"text": ""}], "is empty"),
        ("{", "not valid JSON"),
    ],
)
def test_another_layout_and_wrong_fields_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        imported(tmp_path, content)
