"""What each figure and each value of a scene means, in words, and which direction of it is better."""

from __future__ import annotations

from typing import NamedTuple

from m2d.evaluation.frame_measures import DRIFTS

LARGER, SMALLER, NEITHER = "larger", "smaller", "neither"
_NEARER_ZERO = "nearer 0"


class Meaning(NamedTuple):
    """Words with their unit, and which values are better."""

    words: str
    better: str


MEANINGS = {
    "visual": Meaning("Visual Consistency, %", LARGER),
    "semantic": Meaning("Semantic Consistency, %", LARGER),
    "sequence": Meaning("Sequence Consistency, %", LARGER),
    "cross_talk": Meaning("Own prompt minus the others' (cross-talk), points", LARGER),
    "prompt_recall_1": Meaning("Scenes whose own prompt ranks first in the set (R@1), share", LARGER),
    "prompt_recall_5": Meaning("Scenes whose own prompt is among the first five (R@5), share", LARGER),
    "prompt_auc": Meaning("Own prompt before another of the set (AUC), share", LARGER),
    "scene_recall_1": Meaning("Scenes most similar to one of their own story (R@1), share", LARGER),
    "scene_auc": Meaning("A scene of the own story before one of another (AUC), share", LARGER),
    "cut_accuracy": Meaning("Cuts where scenes begin, F1 %", LARGER),
    "colour_jump": Meaning("Colour jump at joins, levels of 255", SMALLER),
    "lpips_within": Meaning("LPIPS within scenes", NEITHER),
    "lpips_across": Meaning("LPIPS between successive scenes", NEITHER),
    "motion": Meaning("Motion between frames, levels of 255", NEITHER),
    "smoothness": Meaning("Motion smoothness, %", LARGER),
    **{f"drift_{name}": Meaning(f"Drift of {name}, % per scene", _NEARER_ZERO) for name in DRIFTS},
    "unprompted_difference": Meaning("Difference of unprompted properties, share of their range", SMALLER),
}
"""Of the figures, in the order of the report."""

_SHOWN = {
    "setting": "Places",
    "time": "Times of day",
    "on_stage": "Actors on or off stage",
    "shape": "Shapes of actors",
    "colour": "Colours of actors",
    "hat": "Hats of actors",
    "action": "Actions",
}

SCENE_VALUES = {
    "visual": ("visual consistency", "%"),
    "semantic": ("semantic consistency", "%"),
    "cross_talk": ("own prompt minus the others'", "points"),
    "colour_jump": ("colour jump from the scene before", "levels"),
    "lpips_across": ("LPIPS from the scene before", ""),
    "smoothness": ("motion smoothness", "%"),
    "contrast_change": ("contrast against the first scene", "%"),
}
"""Of the values of a scene that tables and captions show: words and unit."""


def meaning(name: str) -> Meaning:
    """Return what a figure means; `shown.X` are shares of prompted properties."""
    kind = name.removeprefix("shown.")
    return MEANINGS[name] if kind == name else Meaning(f"{_SHOWN[kind]} as prompted, share", LARGER)
