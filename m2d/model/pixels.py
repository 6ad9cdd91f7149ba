"""Frames of a film to frames of a VAE and back."""

# P frames, C channels, H height, W width

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2d.model.finite import check_finite


def to_pixels(frames_PCHW: Tensor) -> npt.NDArray[np.uint8]:
    """Turn a VAE's frames in [-1, 1] into frames_PHWC of 0 to 255, rounded; values outside are clamped.

    Raises:
        NotFiniteError: Some values are NaN or infinite.
    """
    check_finite(frames_PCHW, what="the VAE's output")
    scaled = (frames_PCHW.float().clamp(-1, 1) + 1) * 127.5
    pixels: npt.NDArray[np.uint8] = (
        scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    )
    return pixels


def from_pixels(frames_PHWC: npt.NDArray[np.uint8]) -> Tensor:
    """Turn frames of 0 to 255 into frames_PCHW in [-1, 1], float32."""
    frames = torch.from_numpy(np.ascontiguousarray(frames_PHWC)).permute(0, 3, 1, 2)
    return frames.float() / 127.5 - 1
