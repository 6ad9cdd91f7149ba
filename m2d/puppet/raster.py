"""Draw anti-aliased cut-outs; every shape of the theatre is a tapered rounded box.

Shapes: B clips, P frames, K cut-outs (painted in order), H W pixels. Coordinates are fractions of the
picture's height: x runs from 0 to W/H, y from 0 (top) to 1. `stage` and `puppets` choose the shapes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

OUTLINE_RGB = (0.15, 0.12, 0.18)
OUTLINE_WIDTH = 0.013
_SHADE = 0.10


class CutOut(NamedTuple):
    """One primitive; each number may be a plain float or one value per frame.

    Attributes:
        x: Centre, fraction of the height.
        y: Centre, fraction of the height, downwards.
        half_width: Half the width at the middle.
        half_height: Half the height.
        radius: Corner radius; equal to both halves it makes a disc.
        taper: Relative widening towards the bottom: 0 a box, 1 a triangle.
        angle: Rotation about the centre in radians, clockwise.
        rgb: Colour in 0..1.
        outlined: Whether a dark outline surrounds it.
    """

    x: float | np.ndarray
    y: float | np.ndarray
    half_width: float
    half_height: float
    radius: float = 0.0
    taper: float = 0.0
    angle: float | np.ndarray = 0.0
    rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    outlined: bool = False


NUM_FIELDS = 11
OUTLINED_FIELD = NUM_FIELDS - 1
"""Index of the field that says whether a cut-out has an outline."""
# Far outside every picture: pads a list of cut-outs to a common length without drawing anything.
_NOTHING = CutOut(-9.0, -9.0, 0.001, 0.001)


def pack(cutouts: list[CutOut], *, num_frames: int, length: int) -> np.ndarray:
    """Return the cut-outs as an array (P, length, NUM_FIELDS), padded with cut-outs that draw nothing."""
    if len(cutouts) > length:
        raise ValueError(f"{len(cutouts)} cut-outs do not fit into {length}")
    packed = np.empty((num_frames, length, NUM_FIELDS), dtype=np.float32)
    for k, cutout in enumerate([*cutouts, *[_NOTHING] * (length - len(cutouts))]):
        numbers = (*cutout[:7], *cutout.rgb, float(cutout.outlined))
        for field, value in enumerate(numbers):
            packed[:, k, field] = value
    return packed


def paint(
    canvas_BPCHW: Tensor, cutouts_BPKN: Tensor, *, left: int = 0, picture_height: int | None = None
) -> None:
    """Paint the cut-outs in order onto the canvas, in place.

    Args:
        canvas_BPCHW: RGB in 0..1; may be a window of a larger picture.
        cutouts_BPKN: Packed cut-outs in coordinates of the whole picture.
        left: First column of the window.
        picture_height: Height of the whole picture in pixels; the window's own by default.
    """
    height, width = canvas_BPCHW.shape[-2:]
    unit = 1.0 / (picture_height or height)
    x_W = (torch.arange(width) + left + 0.5) * unit
    y_H1 = ((torch.arange(height) + 0.5) * unit)[:, None]
    for k, box in enumerate(_boxes(cutouts_BPKN, unit=unit)):
        rows = slice(max(box.top, 0), min(box.bottom, height))
        columns = slice(max(box.left - left, 0), min(box.right - left, width))
        if rows.start < rows.stop and columns.start < columns.stop:
            window = canvas_BPCHW[:, :, :, rows, columns]
            _paint_one(window, cutouts_BPKN[:, :, k], x_W=x_W[columns], y_H1=y_H1[rows], unit=unit)


class _Box(NamedTuple):
    left: int
    right: int
    top: int
    bottom: int


def _boxes(cutouts_BPKN: Tensor, *, unit: float) -> list[_Box]:
    """Return per cut-out the pixels it can touch in any clip: most of the picture need not be painted."""
    x, y, half_w, half_h, _, taper = (field for field in cutouts_BPKN.unbind(-1)[:6])
    reach = torch.hypot(half_w * (1 + taper.abs()), half_h) + OUTLINE_WIDTH + unit
    drawn: Tensor = x > torch.as_tensor(_NOTHING.x) + 1.0
    far = torch.tensor(1e4)
    boxes = []
    for centre in (x, y):
        low = torch.where(drawn, centre - reach, far).amin((0, 1))
        high = torch.where(drawn, centre + reach, -far).amax((0, 1))
        boxes.append(((low / unit).floor().long().tolist(), (high / unit).ceil().long().tolist()))
    (lefts, rights), (tops, bottoms) = boxes
    return [_Box(*edges) for edges in zip(lefts, rights, tops, bottoms, strict=True)]


def _paint_one(canvas_BPCHW: Tensor, cutout_BPN: Tensor, *, x_W: Tensor, y_H1: Tensor, unit: float) -> None:
    x, y, half_w, half_h, radius, taper, angle, red, green, blue, outlined = (
        field[..., None, None] for field in cutout_BPN.unbind(-1)
    )
    u, v = x_W - x, y_H1 - y
    cos, sin = angle.cos(), angle.sin()
    across, down = cos * u + sin * v, cos * v - sin * u
    height_fraction = (down / half_h).clamp_(-1.0, 1.0)
    dx = across.abs_() - half_w * (1.0 + taper * height_fraction) + radius
    dy = down.abs_() - half_h + radius
    inside = torch.maximum(dx, dy).clamp_(max=0.0)
    outside = dx.clamp_(min=0.0).square_().add_(dy.clamp_(min=0.0).square_()).sqrt_()
    distance = inside.add_(outside).sub_(radius)
    fill = (0.5 - distance / unit).clamp_(0.0, 1.0)
    shade = 1.0 - _SHADE * height_fraction
    ring = (
        (0.5 - (distance - OUTLINE_WIDTH) / unit).clamp_(0.0, 1.0) * outlined
        if bool(outlined.any())
        else None
    )
    for channel, (colour, dark) in enumerate(zip((red, green, blue), OUTLINE_RGB, strict=True)):
        plane = canvas_BPCHW[:, :, channel]
        if ring is not None:
            plane += ring * (dark - plane)
        plane += fill * ((colour * shade).clamp_(max=1.0) - plane)
