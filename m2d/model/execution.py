"""How a block runs: all scenes' tokens joined, or one scene after the other.

`joined` is the form for gradients, compilation and export. `per_scene` writes in place, never joins
activations and keeps the keys and values of all scenes in one buffer: at large sizes it moves and holds the
least memory. Both compute the same; `m2d.model.per_scene` is the second.
"""

from __future__ import annotations

from typing import Literal

from m2d.layout import SceneLayout

Execution = Literal["joined", "per_scene"]

SMALLEST_SCENE = 512
"""Video tokens of a scene from which `per_scene` pays; below, its many small operations cost more."""


def choose_execution(layout: SceneLayout) -> Execution:
    """Choose how blocks run in inference: `per_scene` if no scene has fewer than `SMALLEST_SCENE` tokens."""
    tokens = [len(layout.video_span(scene)) for scene in range(layout.num_scenes)]
    return "per_scene" if min(tokens) >= SMALLEST_SCENE else "joined"
