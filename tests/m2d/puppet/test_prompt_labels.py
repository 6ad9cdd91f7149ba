from __future__ import annotations

import numpy as np

from m2d.puppet.captions import plain_caption, varied_caption
from m2d.puppet.labels import ABSENT, PROMPTED_CLASSES, class_labels
from m2d.puppet.prompt_labels import prompt_labels
from m2d.puppet.render import Clip
from m2d.puppet.story import sample_story


def test_labels_of_a_caption_are_those_of_its_scene() -> None:
    draw = np.random.default_rng(0)
    for index in range(60):
        story = sample_story(seed=5, index=index, num_scenes=3, changing=0.5)
        for scene in story.scenes:
            columns = class_labels([Clip(story, scene)])
            wanted = {name: int(columns[name]) for name in PROMPTED_CLASSES if int(columns[name]) != ABSENT}
            assert prompt_labels(plain_caption(story, scene)) == wanted
            assert prompt_labels(varied_caption(story, scene, draw=draw)) == wanted


def test_only_named_properties_have_labels() -> None:
    assert prompt_labels("Two friends meet.") == {}
    assert prompt_labels("Actor2 waves.") == {"actor2.action": 3, "actor1.on_stage": 0, "actor2.on_stage": 1}


def test_words_of_a_description_are_no_place() -> None:
    assert "setting" not in prompt_labels("Actor1 (park keeper, red) jumps.")
