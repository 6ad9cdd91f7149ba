"""Convert decoded frames to RGB at the size the model made: colour conversion and sampling."""

from __future__ import annotations

import struct

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

from m2d.video.tone_mapping import is_high_dynamic_range, tone_mapped

# BT.709: the weight of red and blue in brightness, and 8-bit limited range.
RED, BLUE = 0.2126, 0.0722
_BLACK, _LUMA_STEPS, _GREY, _CHROMA_STEPS = 16, 219, 128, 224
_IS_BT709, _IS_LIMITED = 1, 1
SKETCH_SIDE = 32
# bicubic, full_chroma_int, accurate_rnd, bitexact: the default conversion is darker by one level.
_ACCURATE = 0x4 | 0x2000 | 0x40000 | 0x80000
_MATRIX = struct.Struct("=9i")


def sampled(plane_HW: np.ndarray, *, upscale: int) -> np.ndarray:
    """Take the middle of each `upscale` x `upscale` block of an HW or HWC array.

    The middle of an even side lies between two pixels: it is their mean. Where a smooth filter has enlarged
    the array, one of the two would be a shifted picture.
    """
    if upscale % 2:
        return plane_HW[upscale // 2 :: upscale, upscale // 2 :: upscale]
    middle = _middle(upscale)
    parts = [plane_HW[row::upscale, column::upscale] for row in middle for column in middle]
    return np.asarray(np.rint(np.mean(parts, axis=0)), dtype=plane_HW.dtype)


def luma_of(frame: VideoFrame) -> np.ndarray:
    """Return the luma plane of a planar 8-bit YUV frame, HW."""
    planes = frame.to_ndarray()
    return planes[: frame.height]


def expected_luma(frame_HWC: np.ndarray) -> np.ndarray:
    """Compute the BT.709 limited-range luma of an RGB frame, HW, not rounded."""
    weights = np.array([RED, 1 - RED - BLUE, BLUE])
    luma_HW: np.ndarray = _BLACK + frame_HWC @ weights * (_LUMA_STEPS / 255)
    return luma_HW


def sketch_of(luma_HW: np.ndarray) -> np.ndarray:
    """Reduce a luma plane to the means of at most 32 x 32 cells, float32."""
    rows, columns = (np.linspace(0, side, min(side, SKETCH_SIDE) + 1).astype(int) for side in luma_HW.shape)
    sums = np.add.reduceat(np.add.reduceat(luma_HW, rows[:-1], axis=0), columns[:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(rows), np.diff(columns)), dtype=np.float32)


def rgb_of(frame: VideoFrame, *, upscale: int) -> np.ndarray:
    """Convert a frame to uint8 RGB, HWC, one pixel for each block of `upscale` x `upscale`; see `sampled`.

    High dynamic range is tone-mapped.

    Enlarged frames in our own format are converted here: FFmpeg's nearest-neighbour chroma is off by one
    pixel, which mixes neighbouring blocks, and its other filters blur them.
    """
    if is_high_dynamic_range(frame):
        frame = tone_mapped(frame)
    is_ours = frame.format.name == "yuv420p" and frame.colorspace == _IS_BT709
    if upscale > 1 and is_ours and frame.color_range == _IS_LIMITED:
        return _rgb_of_blocks(frame, upscale=upscale)
    # A copy, because a view would keep the large frame alive.
    return np.ascontiguousarray(
        sampled(frame.to_ndarray(format="rgb24", interpolation=_ACCURATE), upscale=upscale)
    )


def display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    """Return the frame's display matrix: nine numbers (ISO 14496-12, 8.3.2), or empty when it has none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    matrix = bytes(data) if isinstance(data, SideData) else b""
    return _MATRIX.unpack(matrix) if len(matrix) == _MATRIX.size else ()


def _middle(upscale: int) -> tuple[int, ...]:
    """Return the one or two pixels in the middle of a block's side."""
    return (upscale // 2,) if upscale % 2 else (upscale // 2 - 1, upscale // 2)


def _rgb_of_blocks(frame: VideoFrame, *, upscale: int) -> np.ndarray:
    height, width = frame.height, frame.width
    planes = frame.to_ndarray()
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    places = [
        (np.arange(row, height, upscale)[:, None], np.arange(column, width, upscale)[None, :])
        for row in _middle(upscale)
        for column in _middle(upscale)
    ]
    luma_NHW = np.array([planes[rows, columns] for rows, columns in places], np.float32)
    luma_HW = (luma_NHW.mean(0) - _BLACK) / _LUMA_STEPS
    chroma_N2HW = np.array([chroma[:, rows // 2, columns // 2] for rows, columns in places], np.float32)
    blue_HW, red_HW = (chroma_N2HW.mean(0) - _GREY) / _CHROMA_STEPS
    r_HW = luma_HW + 2 * (1 - RED) * red_HW
    b_HW = luma_HW + 2 * (1 - BLUE) * blue_HW
    g_HW = (luma_HW - RED * r_HW - BLUE * b_HW) / (1 - RED - BLUE)
    levels_HWC = np.clip(np.rint(np.stack([r_HW, g_HW, b_HW], axis=-1) * 255), 0, 255)
    return np.asarray(levels_HWC, dtype=np.uint8)
