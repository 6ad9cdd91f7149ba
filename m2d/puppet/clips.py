"""Random puppet clips, drawn by (seed, step) and rendered on the fly, with masks of the actors.

Shapes: B clips, P frames, H W pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from m2d.puppet.render import Clip, render_clips
from m2d.puppet.stage import paint_backdrops
from m2d.puppet.story import sample_story

# A pixel that differs from the empty stage by more than this belongs to an actor or its shadow.
_ACTOR_THRESHOLD = 0.03
# A pixel that differs by more than this from the same picture without outlines is covered by one.
_OUTLINE_THRESHOLD = 0.1
_BAND_WIDTH = 3
# Share of crops around an actor: backgrounds need few examples.
_ACTOR_SHARE = 0.75


class ClipBatch(NamedTuple):
    """Rendered clips.

    Attributes:
        frames_BPCHW: RGB in 0..1.
        actors_BP1HW: 1 where an actor or its shadow is, else 0.
    """

    frames_BPCHW: Tensor
    actors_BP1HW: Tensor


def draw_clips(*, seed: int, step: int, count: int) -> list[Clip]:
    """Draw `count` single-scene clips; the same arguments always give the same clips."""
    stories = [sample_story(seed=seed, index=step * count + item, num_scenes=1) for item in range(count)]
    return [Clip(story, story.scenes[0]) for story in stories]


def render_batch(clips: list[Clip], *, num_frames: int, height: int, width: int) -> ClipBatch:
    """Render clips and the mask of their actors."""
    frames_BPCHW = render_clips(clips, num_frames=num_frames, height=height, width=width)
    empty_B1CHW = paint_backdrops([clip.backdrop for clip in clips], height=height, width=width)[:, None]
    difference_BP1HW = (frames_BPCHW - empty_B1CHW).abs().amax(2, keepdim=True)
    return ClipBatch(frames_BPCHW, (difference_BP1HW > _ACTOR_THRESHOLD).to(torch.float32))


def outline_bands(clips: list[Clip], *, num_frames: int, height: int, width: int) -> Tensor:
    """Return 1 in the three pixels around each pixel of an outline, else 0, shape (B, P, 1, H, W)."""
    with_outlines, without = (
        render_clips(clips, num_frames=num_frames, height=height, width=width, outlined=outlined)
        for outlined in (True, False)
    )
    outlines_BPHW = ((with_outlines - without).abs().amax(2) > _OUTLINE_THRESHOLD).float()
    bands_BPHW = max_pool2d(outlines_BPHW, _BAND_WIDTH, stride=1, padding=_BAND_WIDTH // 2)
    return bands_BPHW[:, :, None]


def actor_boxes(actors_BP1HW: Tensor) -> Tensor:
    """Return the mask extended to the bounding box in each half of a frame, shape (B, P, 1, H, W)."""
    boxes = torch.zeros_like(actors_BP1HW)
    middle = actors_BP1HW.shape[-1] // 2
    for half in (slice(None, middle), slice(middle, None)):
        part = actors_BP1HW[..., half]
        rows = _span(part.amax(-1, keepdim=True), dim=-2)
        columns = _span(part.amax(-2, keepdim=True), dim=-1)
        boxes[..., half] = rows * columns
    return boxes


def draw_corner(
    rooms: tuple[int, int], centres: Tensor, *, side: tuple[int, int], draw: torch.Generator
) -> list[int]:
    """Draw the top left corner of a crop, most often of one around an actor.

    Args:
        rooms: Largest top and left positions.
        centres: Rows and columns of an actor's pixels in the crop's units, shape (pixels, 2); may be empty.
        side: Height and width of the crop.
    """
    corner = [int(torch.randint(room + 1, (), generator=draw)) for room in rooms]
    if float(torch.rand((), generator=draw)) >= _ACTOR_SHARE or not len(centres):
        return corner
    centre = centres[int(torch.randint(len(centres), (), generator=draw))].tolist()
    starts = [place - size // 2 for place, size in zip(centre, side, strict=True)]
    return [min(max(start, 0), room) for start, room in zip(starts, rooms, strict=True)]


class PsnrMeter:
    """PSNR in dB over all pixels and over those inside the actors' boxes, pixels in 0..1.

    With bands around outlines it also measures the mean absolute error in them, in levels of 0..255.
    """

    def __init__(self) -> None:
        self._squares: list[Tensor] = []
        self._boxed: list[Tensor] = []
        self._banded: list[Tensor] = []

    def add(
        self,
        decoded_BPCHW: Tensor,
        frames_BPCHW: Tensor,
        actors_BP1HW: Tensor,
        outlines_BP1HW: Tensor | None = None,
    ) -> None:
        """Add clips with their actor mask and, maybe, their `outline_bands`."""
        error_BPCHW = decoded_BPCHW - frames_BPCHW
        if outlines_BP1HW is not None:
            self._banded.append(error_BPCHW.abs()[outlines_BP1HW.expand_as(error_BPCHW) > 0])
        square_BPCHW = error_BPCHW.square()
        self._squares.append(square_BPCHW.flatten())
        self._boxed.append(square_BPCHW[actor_boxes(actors_BP1HW).expand_as(square_BPCHW) > 0])

    def read(self) -> dict[str, float]:
        """Return `psnr_db`, `psnr_actors_db` and, with bands, `outline_error`."""
        figures = {"psnr_db": _decibels(self._squares), "psnr_actors_db": _decibels(self._boxed)}
        if self._banded:
            figures["outline_error"] = round(255 * float(torch.cat(self._banded).mean()), 3)
        return figures


def _decibels(squares: list[Tensor]) -> float:
    return round(-10 * math.log10(float(torch.cat(squares).mean())), 3)


def _span(marks: Tensor, *, dim: int) -> Tensor:
    """Fill the gap between the first and the last mark along `dim`."""
    return marks.cummax(dim).values * marks.flip(dim).cummax(dim).values.flip(dim)
