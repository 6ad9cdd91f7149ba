"""Readings made by hand: what the reader would see if the scenes showed exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from m2d.puppet.attribute_classifier import Reading
from m2d.puppet.labels import ABSENT, class_labels, unprompted_numbers
from m2d.puppet.story import Scene, Story, sample_story
from m2d.puppet.story_scores import story_clips


def sample_stories(count: int, *, changing: float = 0.0) -> list[Story]:
    """Stories of three scenes."""
    return [sample_story(seed=5, index=index, num_scenes=3, changing=changing) for index in range(count)]


def story_of(*actions: tuple[int | None, int | None]) -> Story:
    """A story with the given actions per scene; everything else is drawn."""
    story = sample_story(seed=5, index=0, num_scenes=len(actions))
    return replace(story, scenes=tuple(Scene(actions=each) for each in actions))


def perfect_reading(stories: Sequence[Story]) -> Reading:
    """What a faultless reader sees in faultless scenes; off stage it guesses class 0, as any reader must."""
    clips = story_clips(stories)
    columns = {
        name: torch.where(label == ABSENT, torch.zeros_like(label), label)
        for name, label in class_labels(clips).items()
    }
    return Reading(classes=columns, numbers=unprompted_numbers(clips))


def changed(reading: Reading, row: int, **values: int) -> Reading:
    """The reading with other classes in one row; `actor1_action=3` sets `actor1.action`."""
    columns = {name: column.clone() for name, column in reading.classes.items()}
    for name, value in values.items():
        key = name if name in columns else name.replace("_", ".", 1)
        columns[key][row] = value
    return replace(reading, classes=columns)
