from __future__ import annotations

from collections import Counter

import pytest

from m2d.puppet.story import ACTOR_SIZE, HORIZON_Y, SUN_X, TREE_X, Story, sample_story
from m2d.puppet.vocabulary import ACTIONS, COLOURS, EYES, HATS, SETTINGS, SHAPES, TIMES

STORIES = [sample_story(seed=3, index=index, num_scenes=3) for index in range(600)]


def test_the_same_seed_and_index_give_the_same_story() -> None:
    assert sample_story(seed=3, index=7, num_scenes=3) == STORIES[7]


def test_other_seeds_and_other_indices_give_other_stories() -> None:
    held_out = {sample_story(seed=4, index=index, num_scenes=3) for index in range(600)}
    assert len(set(STORIES)) == 600
    assert not held_out & set(STORIES)


def test_more_scenes_continue_a_story() -> None:
    longer = sample_story(seed=3, index=7, num_scenes=5)
    assert longer.scenes[:3] == STORIES[7].scenes
    assert (longer.backdrop, longer.cast) == (STORIES[7].backdrop, STORIES[7].cast)


def test_every_scene_has_somebody_on_stage() -> None:
    casts = Counter(tuple(action is None for action in scene.actions) for s in STORIES for scene in s.scenes)
    assert set(casts) == {(False, False), (False, True), (True, False)}
    assert min(casts.values()) > 1800 / 3 * 0.85


@pytest.mark.parametrize(
    ("name", "size"),
    [("shape", len(SHAPES)), ("colour", len(COLOURS)), ("hat", len(HATS))],
)
def test_every_look_is_drawn_about_equally_often(name: str, size: int) -> None:
    counts = Counter(getattr(actor, name) for story in STORIES for actor in story.cast)
    assert set(counts) == set(range(size))
    assert max(counts.values()) < 1.35 * min(counts.values())


def test_every_action_setting_time_and_eye_style_is_drawn() -> None:
    actions = Counter(
        action for s in STORIES for scene in s.scenes for action in scene.actions if action is not None
    )
    assert set(actions) == set(range(len(ACTIONS)))
    assert max(actions.values()) < 1.35 * min(actions.values())
    backdrops = [story.backdrop for story in STORIES]
    assert {backdrop.setting for backdrop in backdrops} == set(range(len(SETTINGS)))
    assert {backdrop.time for backdrop in backdrops} == set(range(len(TIMES)))
    assert {backdrop.eyes for backdrop in backdrops} == set(range(len(EYES)))


@pytest.mark.parametrize(
    ("name", "limits"),
    [("tree_x", TREE_X), ("sun_x", SUN_X), ("horizon_y", HORIZON_Y), ("actor_size", ACTOR_SIZE)],
)
def test_unprompted_numbers_fill_their_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    values = [getattr(story.backdrop, name) for story in STORIES]
    margin = 0.02 * (high - low)
    assert low <= min(values) < low + margin
    assert high - margin < max(values) <= high


def test_scenes_of_one_story_contradict_each_other() -> None:
    """Prompt leakage can only be seen where the scenes' prompts differ."""

    def contradicts(story: Story) -> bool:
        return len(set(story.scenes)) > 1

    assert sum(map(contradicts, STORIES)) / len(STORIES) > 0.98
