"""How much of a picture the picture before it does not explain, whatever moved: the measure behind cuts.

H height, W width, C channels; pictures are uint8 BGR HWC of one size.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np

# Residual of a pixel, in levels of 255, that motion and compression leave; less where a picture has little
# contrast.
_LARGEST_NOISE, _SMALLEST_NOISE, _NOISE_OF_CONTRAST = 25.0, 8.0, 0.6
# A repeated picture that was encoded again differs by no more, on average and in one of 16x16 fields.
_SAME_MEAN, _SAME_FIELD, _FIELDS = 1.0, 6.0, 16
_SMALL = 64
# Where less differs, optical flow is not worth its time.
_TOO_LITTLE = 0.02
# Optical flow needs room for its patches.
_SMALLEST_SIDE = 12
# A pan is tried only where optical flow fails, and only if the pictures overlap by so much.
_FLOW_FAILS, _SMALLEST_OVERLAP = 0.15, 0.3


def is_repeated(before_HWC: np.ndarray, picture_HWC: np.ndarray) -> bool:
    """Whether a film shows the same picture again, encoded once more."""
    difference_HW = cv2.absdiff(before_HWC, picture_HWC).mean(axis=2)
    if difference_HW.mean() >= _SAME_MEAN:
        return False
    fields = cv2.resize(difference_HW, (_FIELDS, _FIELDS), interpolation=cv2.INTER_AREA)
    return bool(fields.max() < _SAME_FIELD)


def stillest_change(before_HWC: np.ndarray, picture_HWC: np.ndarray) -> tuple[float, float]:
    """Return how much the stillest parts of a picture change: the 10th and 20th percentile over 16x16 fields,
    in levels of 255. A scene that was made on its own differs even there."""
    small = [
        cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
        for picture in (before_HWC, picture_HWC)
    ]
    difference_HW = cv2.absdiff(small[0], small[1]).astype(np.float32)
    fields = cv2.resize(difference_HW, (_FIELDS, _FIELDS), interpolation=cv2.INTER_AREA)
    tenth, fifth = np.quantile(fields, [0.1, 0.2])
    return float(tenth), float(fifth)


def unexplained(before_HWC: np.ndarray, picture_HWC: np.ndarray) -> float:
    """Return the share of pixels, 0 to 1, that are in one picture only, after compensation of motion.

    Motion is not compensated in pictures of fewer than 12 pixels on a side. Else it is dense inverse search
    optical flow (Kroeger et al., ECCV 2016), or a pan by phase correlation.
    """
    noise = min(_noise(before_HWC), _noise(picture_HWC))
    unmoved = float((cv2.absdiff(before_HWC, picture_HWC).max(axis=2) > noise).mean())
    if unmoved < _TOO_LITTLE or min(before_HWC.shape[:2]) < _SMALLEST_SIDE:
        return unmoved
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in (before_HWC, picture_HWC)]
    shares = [
        float((_after_flow(before_HWC, picture_HWC, grey[0], grey[1]) > noise).mean()),
        float((_after_flow(picture_HWC, before_HWC, grey[1], grey[0]) > noise).mean()),
    ]
    share = sum(shares) / 2
    return share if share < _FLOW_FAILS else min(share, _after_pan(before_HWC, picture_HWC, grey, noise))


def _noise(picture_HWC: np.ndarray) -> float:
    contrast = float(np.abs(picture_HWC - picture_HWC.mean(axis=(0, 1))).max(axis=2).mean())
    return min(_LARGEST_NOISE, max(_SMALLEST_NOISE, _NOISE_OF_CONTRAST * contrast))


def _after_flow(
    before_HWC: np.ndarray, picture_HWC: np.ndarray, before_HW: np.ndarray, picture_HW: np.ndarray
) -> np.ndarray:
    """Return the difference that is left, uint8 HW, when every pixel is searched in the picture before."""
    flow_HW2 = _flow().calc(picture_HW, before_HW, None)
    height, width = picture_HW.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved_HWC = cv2.remap(
        before_HWC,
        columns + flow_HW2[..., 0],
        rows + flow_HW2[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    left_HW: np.ndarray = cv2.absdiff(moved_HWC, picture_HWC).max(axis=2)
    return left_HW


def _after_pan(
    before_HWC: np.ndarray, picture_HWC: np.ndarray, grey: list[np.ndarray], noise: float
) -> float:
    """Return the share of pixels that differ where the pictures overlap after the likeliest pan."""
    (right, down), _ = cv2.phaseCorrelate(grey[0].astype(np.float32), grey[1].astype(np.float32))
    pan = np.array([[1, 0, right], [0, 1, down]], dtype=np.float64)
    height, width = grey[0].shape
    inside_HW = cv2.warpAffine(np.ones((height, width), np.uint8), pan, (width, height)) > 0
    if inside_HW.mean() < _SMALLEST_OVERLAP:
        return 1.0
    moved_HWC = cv2.warpAffine(before_HWC, pan, (width, height))
    left_HW = cv2.absdiff(moved_HWC, picture_HWC).max(axis=2)
    return float((left_HW > noise)[inside_HW].mean())


@cache
def _flow() -> Any:
    # The package's stubs leave this class out in some versions.
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
