from __future__ import annotations

from dataclasses import replace

import pytest

from m2d.puppet.attribute_classifier import reading_accuracy, reading_errors
from m2d.puppet.labels import UNPROMPTED_RANGES
from m2d.puppet.story_scores import story_clips
from tests.m2d.puppet.readings import changed, perfect_reading, story_of

STORY = story_of((0, None), (None, 3), (2, 2))
CLIPS = story_clips([STORY])


def test_perfect_reading_is_right_about_everything() -> None:
    accuracy = reading_accuracy(CLIPS, perfect_reading([STORY]))
    assert set(accuracy) == {"setting", "time", "eyes", "on_stage", "shape", "colour", "hat", "action"}
    assert set(accuracy.values()) == {1.0}


def test_both_actors_count_together_and_those_off_stage_do_not() -> None:
    reading = perfect_reading([STORY])
    wrong = changed(reading, 2, actor2_action=3)
    wrong = changed(wrong, 0, actor2_action=3)
    assert reading_accuracy(CLIPS, wrong)["action"] == pytest.approx(3 / 4)


def test_errors_are_measured_in_the_whole_range() -> None:
    reading = perfect_reading([STORY])
    numbers = reading.numbers.clone()
    numbers[0, 1] += 0.3
    errors = reading_errors(CLIPS, replace(reading, numbers=numbers))
    assert errors == {
        name: pytest.approx(0.1 if name == "sun_x" else 0.0, abs=1e-6) for name in UNPROMPTED_RANGES
    }


def test_a_reading_of_other_clips_is_refused() -> None:
    with pytest.raises(ValueError, match="a reading of 3 scenes for 1 clips"):
        reading_accuracy(CLIPS[:1], perfect_reading([STORY]))
