"""Captions of puppet scenes, in the structure of the paper's Figure 5.

Every caption names the setting, then each actor on stage with its whole description, then its action:
`Park at dusk. Actor1 (round red body, wool cap) walks right.` Torch-free.
"""

from __future__ import annotations

import numpy as np

from m2d.puppet.story import Backdrop, Scene, Story
from m2d.puppet.vocabulary import ACTION_PHRASES, ACTIONS, ACTORS, SETTINGS, TIMES


def setting_text(backdrop: Backdrop) -> str:
    """Return the words for the background, such as `snowfield at dusk`."""
    return f"{SETTINGS[backdrop.setting]} at {TIMES[backdrop.time]}"


def plain_caption(story: Story, scene: Scene) -> str:
    """Return the scene's standard caption, as a recipe with cast and setting expands it."""
    sentences = [f"{setting_text(story.backdrop_of(scene)).capitalize()}."]
    sentences += [f"{_subject(story, actor)} {ACTIONS[action]}." for actor, action in _on_stage(scene)]
    return " ".join(sentences)


def varied_caption(story: Story, scene: Scene, *, draw: np.random.Generator) -> str:
    """Return a caption of the same meaning in random wording: synonyms, order, joined sentences."""
    actors = list(_on_stage(scene))
    if len(actors) == 2 and draw.random() < 0.2:
        actors.reverse()
    clauses = [f"{_subject(story, actor)} {_varied_action(action, draw)}" for actor, action in actors]
    joint = (". ", " and ", " while ")[int(draw.choice(3, p=(0.7, 0.15, 0.15)))]
    return f"{setting_text(story.backdrop_of(scene)).capitalize()}. {joint.join(clauses)}."


def _on_stage(scene: Scene) -> list[tuple[int, int]]:
    return [(actor, action) for actor, action in enumerate(scene.actions) if action is not None]


def _subject(story: Story, actor: int) -> str:
    return f"{ACTORS[actor]} ({story.cast[actor].description})"


def _varied_action(action: int, draw: np.random.Generator) -> str:
    name = ACTIONS[action]
    phrases = ACTION_PHRASES[name]
    phrase = name if draw.random() < 0.7 else phrases[int(draw.integers(len(phrases)))]
    adverb = ("", " happily", " slowly", " again")[int(draw.choice(4, p=(0.85, 0.05, 0.05, 0.05)))]
    return phrase + adverb
