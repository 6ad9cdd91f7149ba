"""Shots of one puppet story are likelier together than shots of several, whatever their order."""

from __future__ import annotations

import numpy as np
import pytest

from m2d.curation.puppet_likeness import LEAST_EVIDENCE, evidence_of
from m2d.evaluation.puppet_embedder import CLASS_SIZES
from m2d.puppet.labels import ABSENT, class_labels, unprompted_numbers
from m2d.puppet.render import Clip
from m2d.puppet.story import Story, sample_story

STORIES = [sample_story(seed=11, index=index, num_scenes=3, changing=1.0) for index in range(60)]


def answers(story: Story, scene: int) -> np.ndarray:
    """Return what a classifier without error reads of a scene; nothing is known of actors off stage."""
    clip = Clip(story, story.scenes[scene])
    labels = class_labels([clip])
    shares = [
        np.full(size, 1 / size) if int(labels[name]) == ABSENT else np.eye(size)[int(labels[name])]
        for name, size in CLASS_SIZES.items()
    ]
    return np.concatenate([*shares, unprompted_numbers([clip])[0].numpy()])


def window(*scenes: tuple[Story, int]) -> np.ndarray:
    return np.stack([answers(story, scene) for story, scene in scenes])


def test_stories_are_kept_and_shuffled_shots_are_not() -> None:
    true = [evidence_of(window((story, 0), (story, 1), (story, 2))) for story in STORIES]
    assert min(true) > LEAST_EVIDENCE
    others = [STORIES[place:] + STORIES[:place] for place in (1, 2)]
    shuffled = [
        evidence_of(window((one, 0), (two, 1), (three, 2)))
        for one, two, three in zip(STORIES, *others, strict=True)
    ]
    assert sum(each > LEAST_EVIDENCE for each in shuffled) <= 1


def test_the_order_of_shots_does_not_matter() -> None:
    shots = window((STORIES[0], 0), (STORIES[0], 1), (STORIES[1], 2))
    assert evidence_of(shots[[2, 0, 1]]) == pytest.approx(evidence_of(shots))


def test_an_actor_in_other_clothes_speaks_against_a_story_and_one_off_stage_says_nothing() -> None:
    shots = window((STORIES[0], 0), (STORIES[0], 1))
    starts = np.cumsum([0, *CLASS_SIZES.values()])
    at = dict(zip(CLASS_SIZES, starts, strict=False))
    size = CLASS_SIZES["actor1.hat"]

    def wearing(hats: tuple[int, int], on_stage: float) -> float:
        changed = shots.copy()
        for row, hat in enumerate(hats):
            changed[row, at["actor1.hat"] : at["actor1.hat"] + size] = np.eye(size)[hat]
            changed[row, at["actor1.on_stage"] : at["actor1.on_stage"] + 2] = 1 - on_stage, on_stage
        return evidence_of(changed)

    assert wearing((0, 0), 1.0) > wearing((0, 1), 1.0) + 2
    assert wearing((0, 0), 0.0) == pytest.approx(wearing((0, 1), 0.0))
