from __future__ import annotations

import torch

from m2d.puppet.labels import (
    ABSENT,
    PROMPTED_CLASSES,
    UNPROMPTED_CLASSES,
    UNPROMPTED_RANGES,
    class_labels,
    unprompted_numbers,
)
from m2d.puppet.render import Clip
from m2d.puppet.story import ACTOR_SIZE, HORIZON_Y, SUN_X, TREE_X, sample_story
from m2d.puppet.vocabulary import ACTIONS
from tests.m2d.puppet.plain_stories import CAST, changing_clips, plain_clip


def test_labels_say_what_is_on_stage() -> None:
    labels = class_labels([plain_clip("bows", "waves", setting=4, time=2, eyes=1)])
    assert {name: int(value) for name, value in labels.items()} == {
        "setting": 4,
        "time": 2,
        "eyes": 1,
        "actor1.on_stage": 1,
        "actor1.shape": CAST[0].shape,
        "actor1.colour": CAST[0].colour,
        "actor1.hat": CAST[0].hat,
        "actor1.action": ACTIONS.index("bows"),
        "actor2.on_stage": 1,
        "actor2.shape": CAST[1].shape,
        "actor2.colour": CAST[1].colour,
        "actor2.hat": CAST[1].hat,
        "actor2.action": ACTIONS.index("waves"),
    }


def test_labels_are_those_of_the_scene_where_the_story_changes() -> None:
    clips = changing_clips()
    labels, numbers = class_labels(clips), unprompted_numbers(clips)
    assert labels["setting"].tolist() == [0, 3, 0]
    assert labels["time"].tolist() == [0, 2, 0]
    assert torch.equal(numbers[0], numbers[2])
    assert (numbers[0] == numbers[1]).tolist() == [False, False, True, True]


def test_nothing_is_asked_about_an_actor_off_stage_but_that_it_is() -> None:
    labels = class_labels([plain_clip("jumps", None), plain_clip(None, "jumps")])
    assert labels["actor1.on_stage"].tolist() == [1, 0]
    assert labels["actor2.on_stage"].tolist() == [0, 1]
    for name in ("shape", "colour", "hat", "action"):
        assert (labels[f"actor1.{name}"] == ABSENT).tolist() == [False, True]
        assert (labels[f"actor2.{name}"] == ABSENT).tolist() == [True, False]


def test_every_label_is_a_class_of_its_property() -> None:
    stories = [sample_story(seed=6, index=index, num_scenes=1) for index in range(200)]
    sizes = PROMPTED_CLASSES | UNPROMPTED_CLASSES
    for name, values in class_labels([Clip(story, story.scenes[0]) for story in stories]).items():
        shown = values[values != ABSENT]
        assert set(shown.tolist()) == set(range(sizes[name])), name


def test_unprompted_numbers_run_from_the_lowest_to_the_highest() -> None:
    ends = [
        plain_clip(tree_x=TREE_X[k], sun_x=SUN_X[k], horizon_y=HORIZON_Y[k], actor_size=ACTOR_SIZE[k])
        for k in (0, 1)
    ]
    assert list(UNPROMPTED_RANGES) == ["tree_x", "sun_x", "horizon_y", "actor_size"]
    assert torch.allclose(unprompted_numbers(ends), torch.tensor([[0.0] * 4, [1.0] * 4]))
