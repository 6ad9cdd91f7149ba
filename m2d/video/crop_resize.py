"""Turn a picture upright, crop it around its middle and scale it to a model's size, without black bars.

Owns the geometry and the resampling of single pictures. H height, W width, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

_ONE = 1 << 16
_TURN_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """How an encoded picture is turned upright: first transposed, then mirrored along x, y or both."""

    is_transposed: bool = False
    is_mirrored_x: bool = False
    is_mirrored_y: bool = False

    def apply(self, picture_HWC: np.ndarray) -> np.ndarray:
        """Return the upright picture, a view of the given one."""
        if self.is_transposed:
            picture_HWC = picture_HWC.transpose(1, 0, 2)
        return picture_HWC[:: -1 if self.is_mirrored_y else 1, :: -1 if self.is_mirrored_x else 1]

    def __str__(self) -> str:
        turned_by = {(False, True, True): "180", (True, False, True): "90", (True, True, False): "270"}
        key = (self.is_transposed, self.is_mirrored_x, self.is_mirrored_y)
        if key in turned_by:
            return f"turned by {turned_by[key]} degrees anticlockwise"
        return "mirrored and turned" if self.is_transposed else "mirrored" if any(key) else "not turned"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cover:
    """How pictures of one size are cropped and scaled to fill another.

    Attributes:
        width: Width after turning, in pixels.
        crop_x: Pixels cropped at the left and at the right each, maybe a fraction; `crop_y`: above and below.
    """

    turn: Turn
    width: int
    height: int
    crop_x: float
    crop_y: float
    target_width: int
    target_height: int

    def apply(self, picture_HWC: np.ndarray) -> np.ndarray:
        """Turn, crop and scale one encoded picture, uint8 RGB, antialiased; one that fits is unchanged."""
        upright = Image.fromarray(np.ascontiguousarray(self.turn.apply(picture_HWC)))
        box = (self.crop_x, self.crop_y, self.width - self.crop_x, self.height - self.crop_y)
        size = (self.target_width, self.target_height)
        return np.asarray(upright.resize(size, Image.Resampling.LANCZOS, box=box))

    def notes(self) -> list[str]:
        """Describe what is done to the picture; empty when it is unchanged."""
        notes = [] if self.turn == Turn() else [f"{self.turn}, as its metadata says"]
        if round(self.crop_x):
            notes.append(f"cropped {round(self.crop_x)} pixels left and right")
        if round(self.crop_y):
            notes.append(f"cropped {round(self.crop_y)} pixels at the top and at the bottom")
        kept = (round(self.width - 2 * self.crop_x), round(self.height - 2 * self.crop_y))
        if kept != (self.target_width, self.target_height):
            notes.append(
                f"scaled from {kept[0]}x{kept[1]} to {self.target_width}x{self.target_height} pixels"
            )
        return notes


def shown_size(width: int, height: int, pixel_aspect: float, turn: Turn) -> tuple[int, int]:
    """Return width and height of an encoded picture as it is shown: upright, with square pixels."""
    width = round(width * pixel_aspect)
    return (height, width) if turn.is_transposed else (width, height)


def turn_of(display_matrix: tuple[int, ...]) -> Turn | None:
    """Return the turn of a display matrix (ISO 14496-12, 8.3.2); None when it is not by right angles.

    Args:
        display_matrix: Nine numbers a, b, u, c, d, v, x, y, w with x' = ax + cy and y' = bx + dy; or empty.
    """
    if not display_matrix:
        return Turn()
    a, b, c, d = (display_matrix[index] / _ONE for index in (0, 1, 3, 4))
    # Rounded, because some cameras write a quarter turn as 65535 / 65536.
    corners = tuple(round(number) for number in (a, b, c, d))
    if any(
        abs(number - corner) > _TURN_ROUNDING for number, corner in zip((a, b, c, d), corners, strict=True)
    ):
        return None
    if corners[1:3] == (0, 0) and abs(corners[0]) == abs(corners[3]) == 1:
        return Turn(is_mirrored_x=corners[0] < 0, is_mirrored_y=corners[3] < 0)
    if corners[::3] == (0, 0) and abs(corners[1]) == abs(corners[2]) == 1:
        return Turn(is_transposed=True, is_mirrored_x=corners[2] < 0, is_mirrored_y=corners[1] < 0)
    return None


def cover(
    *, width: int, height: int, pixel_aspect: Fraction, turn: Turn, target_width: int, target_height: int
) -> Cover:
    """Scale so that the encoded picture, turned, fills the target; crop the excess equally on both sides.

    Args:
        pixel_aspect: Width of a pixel over its height.
    """
    if turn.is_transposed:
        width, height, pixel_aspect = height, width, 1 / pixel_aspect
    # The width, in pixels, that the full height has at the target's aspect ratio; and the reverse.
    fitting_width = height * Fraction(target_width, target_height) / pixel_aspect
    fitting_height = width * pixel_aspect * Fraction(target_height, target_width)
    return Cover(
        turn=turn,
        width=width,
        height=height,
        crop_x=float(max(width - fitting_width, Fraction()) / 2),
        crop_y=float(max(height - fitting_height, Fraction()) / 2),
        target_width=target_width,
        target_height=target_height,
    )
