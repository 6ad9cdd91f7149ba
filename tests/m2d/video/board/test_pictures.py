"""Frames in one picture: all there, in order, small enough."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from m2d.video.board.pictures import FrameGrid, GridPainter, StripePainter


def frame_grid(frames_PHWC: np.ndarray, *, fps: float) -> FrameGrid:
    painter = GridPainter(len(frames_PHWC), fps=fps)
    for index, frame_HWC in enumerate(frames_PHWC):
        if painter.wants(index):
            painter.add(index, frame_HWC)
    return painter.finish()


def stripe(frames_PHWC: np.ndarray) -> str:
    painter = StripePainter(len(frames_PHWC))
    for index, frame_HWC in enumerate(frames_PHWC):
        if painter.wants(index):
            painter.add(frame_HWC)
    return painter.finish()


def picture_of(uri: str) -> np.ndarray:
    kind, data = uri.split(",", maxsplit=1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def frames_of(grid: FrameGrid) -> list[np.ndarray]:
    picture_HWC = picture_of(grid.uri)
    assert picture_HWC.shape == (grid.rows * grid.height, grid.columns * grid.width, 3)
    frames = []
    for index in range(grid.num_frames):
        y, x = index // grid.columns * grid.height, index % grid.columns * grid.width
        frames.append(picture_HWC[y : y + grid.height, x : x + grid.width])
    return frames


@pytest.mark.parametrize("num_frames", [1, 2, 5, 9, 49])
def test_small_frames_are_kept_to_the_last_pixel(num_frames: int) -> None:
    frames_PHWC = np.random.default_rng(0).integers(0, 256, (num_frames, 6, 10, 3), np.uint8)
    grid = frame_grid(frames_PHWC, fps=8)
    assert np.array_equal(frames_of(grid), frames_PHWC)
    assert (grid.fps, grid.poster) == (8, num_frames // 2)


def test_of_a_long_scene_some_frames_are_shown_for_as_long_as_it_lasts() -> None:
    levels = np.linspace(0, 250, 161).astype(np.uint8)
    frames_PHWC = np.broadcast_to(levels[:, None, None, None], (161, 8, 8, 3))
    grid = frame_grid(frames_PHWC, fps=24)
    shown = [int(frame[4, 4, 0]) for frame in frames_of(grid)]
    assert (grid.num_frames, shown[0], shown[-1]) == (64, 0, 250)
    assert shown == sorted(shown)
    assert grid.num_frames / grid.fps == pytest.approx(161 / 24, rel=1e-3)


def test_large_frames_are_made_small_and_keep_their_shape() -> None:
    noise_PHWC = np.random.default_rng(0).integers(0, 256, (9, 480, 720, 3), np.uint8)
    grid = frame_grid(noise_PHWC, fps=8)
    assert (grid.width, grid.height) == (432, 288)
    # Noise is the worst there is.
    assert len(grid.uri) < 2_700_000
    tall = frame_grid(np.zeros((1, 4000, 2, 3), np.uint8), fps=8)
    assert (tall.width, tall.height) == (1, 432)


def test_in_the_stripe_every_frame_is_a_column_and_what_stays_is_a_line() -> None:
    frames_PHWC = np.zeros((12, 16, 8, 3), np.uint8)
    frames_PHWC[:, 10] = 200
    frames_PHWC[6:, :, :, 2] = 90
    stripe_HWC = picture_of(stripe(frames_PHWC))
    assert stripe_HWC.shape == (16, 12, 3)
    assert (stripe_HWC[10, :, 0] == 200).all()
    assert (stripe_HWC[3, :6, 2] == 0).all()
    assert (stripe_HWC[3, 6:, 2] == 90).all()


def test_the_stripe_of_a_long_film_stays_narrow() -> None:
    assert picture_of(stripe(np.zeros((3000, 100, 2, 3), np.uint8))).shape == (64, 1200, 3)
