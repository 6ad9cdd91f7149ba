"""Properties of a puppet scene as classes and numbers, the labels of text encoder and attribute classifier.

Owns names, sizes and order of the properties. Shapes: B scenes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2d.puppet.puppets import MARKS_X
from m2d.puppet.render import Clip
from m2d.puppet.story import ACTOR_SIZE, HORIZON_Y, SUN_X, TREE_X
from m2d.puppet.vocabulary import ACTIONS, COLOURS, EYES, HATS, SETTINGS, SHAPES, TIMES

NUM_SLOTS = len(MARKS_X)
# Properties of the whole scene and of each actor that a caption names.
SCENE_CLASSES: dict[str, int] = {"setting": len(SETTINGS), "time": len(TIMES)}
ACTOR_CLASSES: dict[str, int] = {
    "on_stage": 2,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "hat": len(HATS),
    "action": len(ACTIONS),
}
# Properties that captions never name; numbers are scaled from their range to 0..1.
UNPROMPTED_CLASSES: dict[str, int] = {"eyes": len(EYES)}
UNPROMPTED_RANGES: dict[str, tuple[float, float]] = {
    "tree_x": TREE_X,
    "sun_x": SUN_X,
    "horizon_y": HORIZON_Y,
    "actor_size": ACTOR_SIZE,
}
# Label of a property whose actor is off stage; the index that cross-entropy ignores.
ABSENT = -100

PROMPTED_CLASSES: dict[str, int] = SCENE_CLASSES | {
    f"actor{slot + 1}.{name}": size for slot in range(NUM_SLOTS) for name, size in ACTOR_CLASSES.items()
}


def class_labels(clips: list[Clip]) -> dict[str, Tensor]:
    """Return each property's class per clip, shape (B,), int64: PROMPTED_CLASSES, then UNPROMPTED_CLASSES.

    Properties of an actor off stage are ABSENT, except `on_stage` itself.
    """
    columns: dict[str, list[int]] = {name: [] for name in (*PROMPTED_CLASSES, *UNPROMPTED_CLASSES)}
    for clip in clips:
        backdrop = clip.backdrop
        columns["setting"].append(backdrop.setting)
        columns["time"].append(backdrop.time)
        columns["eyes"].append(backdrop.eyes)
        for slot, action in enumerate(clip.scene.actions):
            for name, value in _actor_classes(clip, slot, action).items():
                columns[f"actor{slot + 1}.{name}"].append(value)
    return {name: torch.tensor(values) for name, values in columns.items()}


def _actor_classes(clip: Clip, slot: int, action: int | None) -> dict[str, int]:
    if action is None:
        return {"on_stage": 0, "shape": ABSENT, "colour": ABSENT, "hat": ABSENT, "action": ABSENT}
    actor = clip.story.cast[slot]
    return {"on_stage": 1, "shape": actor.shape, "colour": actor.colour, "hat": actor.hat, "action": action}


def unprompted_numbers(clips: list[Clip]) -> Tensor:
    """Return the unprompted numbers scaled to 0..1 in the order of UNPROMPTED_RANGES, shape (B, 4)."""
    rows = [
        [
            (getattr(clip.backdrop, name) - low) / (high - low)
            for name, (low, high) in UNPROMPTED_RANGES.items()
        ]
        for clip in clips
    ]
    return torch.tensor(rows)
