"""`m2d init`: new recipes that load, and nothing overwritten unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from m2d.recipe.loader import load_recipe
from tests.m2d.cli.conftest import Run

STORY = {
    "scene": 1,
    "background": "Park at noon",
    "characters": [{"name": "Actor1", "description": "round red body, no hat"}],
    "descriptions": ["Actor1 (round red body, no hat) waves.", "Actor1 (round red body, no hat) jumps."],
}


def test_the_new_recipe_loads(m2d: Run, folder: Path) -> None:
    result = m2d("init", "new.yaml", "--title", "A [/] day: #1")
    assert result.stdout == "new.yaml\n"
    assert "m2d check new.yaml" in result.stderr
    assert load_recipe(folder / "new.yaml").title == "A [/] day: #1"


def test_a_recipe_whose_name_is_no_text_is_written(m2d: Run, folder: Path) -> None:
    name = os.fsdecode(b"\xff.yaml")
    assert m2d("init", name).exit_code == 0
    assert load_recipe(folder / name).title == "My first story"


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("a\u202eb", "--title: holds the forbidden character U+202E"),
        ("a\x1bb", "--title: holds the forbidden character U+001B"),
        (os.fsdecode(b"a\xff"), r"--title: is not text: 'a\udcff' holds bytes that are not UTF-8"),
        ("x" * 201, "--title: may have at most 200 characters, got 201"),
        (" ", "--title: is empty"),
        ("\u3000\u200b", "--title: holds U+200B, which shows nothing"),
    ],
)
def test_a_title_that_no_recipe_may_have_is_refused(m2d: Run, folder: Path, title: str, message: str) -> None:
    result = m2d("init", "new.yaml", "--title", title)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (folder / "new.yaml").exists()


def test_an_existing_recipe_is_replaced_only_with_force(m2d: Run, folder: Path) -> None:
    before = (folder / "story.yaml").read_bytes()
    refused = m2d("init")
    assert refused.exit_code == 2
    assert "story.yaml: exists already" in refused.stderr
    assert (folder / "story.yaml").read_bytes() == before
    assert m2d("init", "--force").exit_code == 0
    assert load_recipe(folder / "story.yaml").title == "My first story"


def test_a_name_that_is_no_recipe_is_refused(m2d: Run, folder: Path) -> None:
    result = m2d("init", "story.mp4")
    assert result.exit_code == 2
    assert "does not end in .yaml" in result.stderr
    assert not (folder / "story.mp4").exists()


def test_every_story_of_a_figure_5_file_becomes_a_recipe(m2d: Run, folder: Path) -> None:
    (folder / "stories.json").write_text(json.dumps([STORY, {**STORY, "scene": 2}]))
    result = m2d("init", "--from-figure5", "stories.json")
    assert result.stdout == "scene-001-park-at-noon.yaml\nscene-002-park-at-noon.yaml\n"
    story = load_recipe(folder / "scene-002-park-at-noon.yaml")
    assert story.setting == "Park at noon"
    assert [scene.prompt for scene in story.scenes] == ["Actor1 waves.", "Actor1 jumps."]


def test_one_story_may_get_a_name_of_its_own_and_several_may_not(m2d: Run, folder: Path) -> None:
    (folder / "one.json").write_text(json.dumps([STORY]))
    (folder / "two.json").write_text(json.dumps([STORY, {**STORY, "scene": 2}]))
    assert m2d("init", "one.yaml", "--from-figure5", "one.json").stdout == "one.yaml\n"
    refused = m2d("init", "two.yaml", "--from-figure5", "two.json")
    assert refused.exit_code == 2
    assert "holds 2 stories; give a folder" in refused.stderr


def test_one_recipe_in_the_way_stops_the_whole_import(m2d: Run, folder: Path) -> None:
    (folder / "stories.json").write_text(json.dumps([STORY, {**STORY, "scene": 2}]))
    (folder / "scene-002-park-at-noon.yaml").write_text("mine")
    result = m2d("init", "--from-figure5", "stories.json")
    assert result.exit_code == 2
    assert not (folder / "scene-001-park-at-noon.yaml").exists()
    assert (folder / "scene-002-park-at-noon.yaml").read_text() == "mine"


def test_a_story_of_another_system_becomes_a_recipe_that_says_what_was_left_out(
    m2d: Run, folder: Path
) -> None:
    shots = [{"prompt": "A red ball rolls.", "duration": "5"}, {"prompt": "It stops.", "duration": "5"}]
    (folder / "ball.json").write_text(json.dumps({"multi_prompt": shots}))
    result = m2d("init", "ball.yaml", "--from", "ball.json")
    assert (result.exit_code, result.stdout) == (0, "ball.yaml\n")
    text = (folder / "ball.yaml").read_text()
    assert "# ball, a story of 2 scenes from ball.json (Kling).\n# Not taken over: duration.\n" in text
    assert [scene.prompt for scene in load_recipe(folder / "ball.yaml").scenes] == [
        "A red ball rolls.",
        "It stops.",
    ]
