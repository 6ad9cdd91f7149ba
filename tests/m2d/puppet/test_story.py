from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from m2d.puppet.story import ACTOR_SIZE, HORIZON_Y, SUN_X, TREE_X, Backdrop, Story, sample_story
from m2d.puppet.vocabulary import ACTIONS, COLOURS, EYES, HATS, SETTINGS, SHAPES, TIMES

STORIES = [sample_story(seed=3, index=index, num_scenes=3) for index in range(600)]
CHANGING = [sample_story(seed=3, index=index, num_scenes=3, changing=1.0) for index in range(600)]


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


def backdrops(story: Story) -> list[Backdrop]:
    return [story.backdrop_of(scene) for scene in story.scenes]


def where(story: Story) -> list[tuple[int, int]]:
    return [(backdrop.setting, backdrop.time) for backdrop in backdrops(story)]


def test_a_story_keeps_its_setting_unless_it_is_asked_to_change() -> None:
    assert all(backdrops(story) == [story.backdrop] * 3 for story in STORIES)


def test_as_many_stories_change_as_asked_for_and_the_others_stay_as_they_are() -> None:
    mixed = [sample_story(seed=3, index=index, num_scenes=3, changing=0.5) for index in range(600)]
    assert 0.45 < sum(map(Story.__eq__, mixed, STORIES)) / 600 < 0.55
    assert all(story in pair for story, *pair in zip(mixed, STORIES, CHANGING, strict=True))


def test_a_changing_story_changes_its_backdrops_and_nothing_else() -> None:
    for story, plain in zip(CHANGING, STORIES, strict=True):
        assert len(set(where(story))) > 1
        assert (story.backdrop, story.cast) == (plain.backdrop, plain.cast)
        assert backdrops(story)[0] == plain.backdrop
        assert tuple(replace(scene, backdrop=None) for scene in story.scenes) == plain.scenes
        assert {(each.actor_size, each.eyes) for each in backdrops(story)} == {
            (plain.backdrop.actor_size, plain.backdrop.eyes)
        }


def test_a_place_keeps_its_tree_and_horizon_and_a_setting_its_sun() -> None:
    pairs = [pair for story in CHANGING for pair in combinations(backdrops(story), 2)]
    for first, second in pairs:
        is_same_place = first.setting == second.setting
        assert (first.tree_x == second.tree_x) == is_same_place
        assert (first.horizon_y == second.horizon_y) == is_same_place
        assert (first.sun_x == second.sun_x) == (is_same_place and first.time == second.time)


def test_stories_change_in_every_way_and_return() -> None:
    patterns = Counter(tuple(map(where(story).index, where(story))) for story in CHANGING)
    assert set(patterns) == {(0, 1, 2), (0, 1, 0), (0, 1, 1), (0, 0, 2)}
    assert min(patterns.values()) > 60
    assert patterns[0, 1, 2] > 200
    changes = Counter(
        (first[0] != second[0], first[1] != second[1])
        for story in CHANGING
        for first, second in combinations(where(story), 2)
    )
    assert len(changes) == 4
    assert min(changes.values()) > 200


def test_changed_settings_are_drawn_about_equally_often() -> None:
    counts = Counter(setting for story in CHANGING for setting in where(story)[1:])
    assert set(counts) == {(setting, time) for setting in range(len(SETTINGS)) for time in range(len(TIMES))}
    assert max(counts.values()) < 2 * min(counts.values())


def test_more_scenes_continue_a_changing_story() -> None:
    for index in range(50):
        longer = sample_story(seed=3, index=index, num_scenes=6, changing=1.0)
        assert longer.scenes[:3] == CHANGING[index].scenes
        assert sample_story(seed=3, index=index, num_scenes=1, changing=1.0).scenes == longer.scenes[:1]
