"""Random puppet clips for the helpers' trainings: drawn by (seed, step), rendered on the fly.

Shapes: B clips, P frames, H W pixels. Owns the drawing of clips and the mask of where actors are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2d.puppet.render import Clip, render_clips
from m2d.puppet.stage import paint_backdrops
from m2d.puppet.story import sample_story

# A pixel that differs from the empty stage by more than this belongs to an actor or its shadow.
_ACTOR_THRESHOLD = 0.03


class ClipBatch(NamedTuple):
    """Rendered clips.

    Attributes:
        clips: What they show.
        frames_BPCHW: RGB in 0..1.
        actors_BP1HW: 1 where an actor or its shadow is, else 0.
    """

    clips: list[Clip]
    frames_BPCHW: Tensor
    actors_BP1HW: Tensor


def draw_clips(*, seed: int, step: int, count: int) -> list[Clip]:
    """Draw `count` single-scene clips; the same arguments always give the same clips."""
    stories = [sample_story(seed=seed, index=step * count + item, num_scenes=1) for item in range(count)]
    return [Clip(story, story.scenes[0]) for story in stories]


def render_batch(clips: list[Clip], *, num_frames: int, height: int, width: int) -> ClipBatch:
    """Render clips together with the mask of their actors."""
    frames_BPCHW = render_clips(clips, num_frames=num_frames, height=height, width=width)
    empty_B1CHW = paint_backdrops([clip.backdrop for clip in clips], height=height, width=width)[:, None]
    difference_BP1HW = (frames_BPCHW - empty_B1CHW).abs().amax(2, keepdim=True)
    return ClipBatch(clips, frames_BPCHW, (difference_BP1HW > _ACTOR_THRESHOLD).to(torch.float32))


def actor_boxes(actors_BP1HW: Tensor) -> Tensor:
    """Return the mask filled up to each half-stage's bounding box, frame by frame, shape (B, P, 1, H, W)."""
    boxes = torch.zeros_like(actors_BP1HW)
    middle = actors_BP1HW.shape[-1] // 2
    for half in (slice(None, middle), slice(middle, None)):
        part = actors_BP1HW[..., half]
        rows = _span(part.amax(-1, keepdim=True), dim=-2)
        columns = _span(part.amax(-2, keepdim=True), dim=-1)
        boxes[..., half] = rows * columns
    return boxes


def _span(marks: Tensor, *, dim: int) -> Tensor:
    """Fill the gap between the first and the last mark along `dim`."""
    return marks.cummax(dim).values * marks.flip(dim).cummax(dim).values.flip(dim)
