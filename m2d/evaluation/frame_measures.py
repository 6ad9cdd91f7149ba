"""What frames themselves show, without any network: contrast, colour, sharpness, motion, jumps and drift.

Frames arrive one by one and none is kept but the last two. H W pixels of a frame, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from m2d.video.joining import colour_jump
from m2d.video.pixels import BLUE, RED

# Longer side of the measured pictures, so that a video's size in pixels hardly counts.
LONGEST_SIDE = 256
# BT.709, as in `m2d.video.pixels`.
_LUMA_WEIGHTS = np.array([RED, 1 - RED - BLUE, BLUE], dtype=np.float32)
# A cut may be detected at a neighbouring frame.
_CUT_TOLERANCE = 1
DRIFTS = ("contrast", "colour", "sharpness")


class FrameStatistics(NamedTuple):
    """Means over the frames of one scene.

    Attributes:
        contrast: Standard deviation of luma, in levels.
        colour: Mean distance between a pixel's largest and smallest channel, in levels.
        sharpness: Standard deviation of the Laplacian of luma, in levels.
        motion: Mean change of a pixel between successive frames, in levels; NaN for one frame.
        smoothness: 100 minus the mean distance, in percent of 255, of a frame from the mean of its two
            neighbours; NaN for fewer than three frames. A still scene has 100.
        num_frames: Number of frames.
    """

    contrast: float
    colour: float
    sharpness: float
    motion: float
    smoothness: float
    num_frames: int


class FrameMeter:
    """Measures the frames of one scene in their order."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, float, float]] = []
        self._steps: list[float] = []
        self._bends: list[float] = []
        self._before: list[np.ndarray] = []

    def add(self, frame_HWC: np.ndarray) -> None:
        """Measure the next frame, uint8 RGB."""
        small_HWC = shrunk(frame_HWC, LONGEST_SIDE)
        luma_HW = small_HWC @ _LUMA_WEIGHTS
        colour_HW = small_HWC.max(axis=2) - small_HWC.min(axis=2)
        self._looks.append((float(luma_HW.std()), float(colour_HW.mean()), float(_laplacian(luma_HW).std())))
        if self._before:
            self._steps.append(float(np.abs(luma_HW - self._before[-1]).mean()))
        if len(self._before) == 2:
            middle_HW = (self._before[0] + luma_HW) / 2
            self._bends.append(float(np.abs(self._before[1] - middle_HW).mean()))
        self._before = [*self._before[-1:], luma_HW]

    def finish(self) -> FrameStatistics:
        """Return the means over all frames.

        Raises:
            ValueError: No frame was added.
        """
        if not self._looks:
            raise ValueError("a scene without frames has no statistics")
        contrast, colour, sharpness = (float(mean) for mean in np.mean(self._looks, axis=0))
        return FrameStatistics(
            contrast=contrast,
            colour=colour,
            sharpness=sharpness,
            motion=float(np.mean(self._steps)) if self._steps else math.nan,
            smoothness=100 * (1 - float(np.mean(self._bends)) / 255) if self._bends else math.nan,
            num_frames=len(self._looks),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CutCount:
    """How many detected cuts are where scenes begin."""

    num_expected: int
    num_detected: int
    num_right: int

    @property
    def accuracy(self) -> float:
        """F1 of the detected cuts in percent; NaN where none is expected or detected."""
        total = self.num_expected + self.num_detected
        return 200 * self.num_right / total if total else math.nan


def count_cuts(expected: Sequence[int], detected: Sequence[int]) -> CutCount:
    """Compare detected cuts with the first frames of all scenes but the first; one frame off still counts."""
    left = sorted(detected)
    num_right = 0
    for place in expected:
        near = [cut for cut in left if abs(cut - place) <= _CUT_TOLERANCE]
        if near:
            left.remove(min(near, key=lambda cut: abs(cut - place)))
            num_right += 1
    return CutCount(num_expected=len(expected), num_detected=len(detected), num_right=num_right)


def drift(values_N: Sequence[float]) -> float:
    """Return by how many percent a measure changes from each scene to the next, along the whole story.

    The slope of a straight line through log(value), so a story of any length has one number. NaN for a single
    scene or where a value is 0.
    """
    values = np.array(values_N, dtype=np.float64)
    if len(values) < 2 or not (values > 0).all():
        return math.nan
    slope = np.polynomial.Polynomial.fit(np.arange(len(values)), np.log(values), 1).convert().coef
    return 100 * math.expm1(float(slope[1]) if len(slope) > 1 else 0.0)


def change_since_first(values_N: Sequence[float]) -> list[float]:
    """Return the change of a measure since the first scene, in percent; NaN where that has 0."""
    first = values_N[0]
    return [100 * (value / first - 1) if first > 0 else math.nan for value in values_N]


def jump_between(last_HWC: np.ndarray, first_HWC: np.ndarray) -> float:
    """Return how far colours jump from a scene's last frame to the next scene's first, in levels of 255."""
    return colour_jump(last_HWC[None], first_HWC[None])


def shrunk(frame_HWC: np.ndarray, longest_side: int) -> np.ndarray:
    """Return a frame of at most this side, averaged over areas."""
    height, width = frame_HWC.shape[:2]
    share = longest_side / max(height, width)
    if share >= 1:
        return frame_HWC
    size = (max(round(width * share), 1), max(round(height * share), 1))
    return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BOX))


def _laplacian(luma_HW: np.ndarray) -> np.ndarray:
    """Return the sum of the four neighbours minus four times the pixel; borders repeat."""
    padded = np.pad(luma_HW, 1, mode="edge")
    neighbours_HW = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    laplacian_HW: np.ndarray = neighbours_HW - 4 * luma_HW
    return laplacian_HW
