"""Which files are the scenes of one story, and which of them cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2d.errors import InputError
from m2d.evaluation.stories import find_stories
from tests.m2d.evaluation.puppet_films import empty_film
from tests.m2d.video.grown_films import GENERATE, grown, write_grown


def test_a_story_without_one_of_its_scenes_is_left_out(tmp_path: Path) -> None:
    numbers = {"walk": (1, 3, 5), "from-0": (0, 1), "from-1": (1, 2), "late": (2,)}
    for name, found in numbers.items():
        for number in found:
            empty_film(tmp_path / f"{name}-scene-{number}.mp4")
    stories, unread = find_stories([tmp_path], None)
    assert [(story.name, len(story.scenes)) for story in stories] == [("from-0", 2), ("from-1", 2)]
    assert {each.name: each.reason for each in unread} == {
        "walk": "scenes 2, 4 are missing; there are walk-scene-1.mp4, walk-scene-3.mp4, walk-scene-5.mp4",
        "late": "scene 1 is missing; there are late-scene-2.mp4",
    }
    empty_film(tmp_path / "from-0.mp4")
    with pytest.raises(InputError, match=r"from-0\.mp4: another video has this name, too: .*from-0-scene-0"):
        find_stories([tmp_path], None)


def test_films_of_m2d_whose_names_end_like_scenes_are_stories_of_their_own(tmp_path: Path) -> None:
    write_grown(tmp_path / "love-scene-2.mp4", *grown((GENERATE,), (0, 0, 0)))
    write_grown(tmp_path / "end-scene-3.mp4", *grown((("generate", [((0,), (0,))]),), (0,)))
    empty_film(tmp_path / "love-scene-1.mp4")
    stories, unread = find_stories([tmp_path], None)
    assert unread == []
    found = {story.name: len(story.scenes) for story in stories}
    assert found == {"love-scene-2": 3, "end-scene-3": 1, "love": 1}
