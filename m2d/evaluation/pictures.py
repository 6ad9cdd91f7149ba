"""Crops and sizes of pictures for networks: part of each network's protocol."""

from __future__ import annotations

import numpy as np
from PIL import Image


def centre_crop(frame_HWC: np.ndarray, side: int) -> np.ndarray:
    """Scale the shorter side to `side` (bilinear, antialiased) and return the middle square, uint8 RGB."""
    height, width = frame_HWC.shape[:2]
    half = min(height, width) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return np.asarray(Image.fromarray(frame_HWC).resize((side, side), Image.Resampling.BILINEAR, box=box))
