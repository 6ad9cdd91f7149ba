from __future__ import annotations

import math

import numpy as np
import pytest

from m2d.evaluation.frame_measures import (
    FrameMeter,
    FrameStatistics,
    change_since_first,
    count_cuts,
    drift,
    jump_between,
)

NOISE = np.random.default_rng(0).integers(60, 190, (24, 32, 3)).astype(np.uint8)


def measured(frames: list[np.ndarray]) -> FrameStatistics:
    meter = FrameMeter()
    for frame in frames:
        meter.add(frame)
    return meter.finish()


def test_a_still_scene_is_smooth_and_does_not_move() -> None:
    found = measured([NOISE] * 4)
    assert (found.motion, found.smoothness, found.num_frames) == (0.0, 100.0, 4)


def test_even_fading_is_smoother_than_flicker() -> None:
    even = measured([NOISE + np.uint8(step) for step in (0, 10, 20, 30)])
    flicker = measured([NOISE + np.uint8(step) for step in (0, 10, 0, 10)])
    assert even.motion == pytest.approx(flicker.motion, abs=0.01) == pytest.approx(10, abs=0.01)
    assert even.smoothness == pytest.approx(100, abs=0.01)
    assert flicker.smoothness == pytest.approx(100 - 1000 / 255, abs=0.01)


def test_contrast_colour_and_sharpness_fall_with_what_they_measure() -> None:
    usual = measured([NOISE])
    flat = measured([(NOISE // 2 + 60).astype(np.uint8)])
    grey = measured([np.repeat(NOISE[..., :1], 3, axis=2)])
    blurred = measured([np.repeat(np.repeat(NOISE[::4, ::4], 4, axis=0), 4, axis=1)])
    assert flat.contrast == pytest.approx(usual.contrast / 2, rel=0.02)
    assert grey.colour == 0 < usual.colour
    assert blurred.sharpness < usual.sharpness / 1.5


def test_one_frame_has_neither_motion_nor_smoothness() -> None:
    found = measured([NOISE])
    assert math.isnan(found.motion)
    assert math.isnan(found.smoothness)


def test_drift_is_the_change_per_scene() -> None:
    assert drift([10 * 0.97**scene for scene in range(20)]) == pytest.approx(-3)
    assert drift([5.0, 5.0, 5.0]) == pytest.approx(0)
    assert math.isnan(drift([5.0]))
    assert change_since_first([50.0, 45.0]) == pytest.approx([0, -10])


def test_cuts_count_at_a_neighbouring_frame_and_once() -> None:
    found = count_cuts([17, 34], [16, 17, 40])
    assert (found.num_right, found.accuracy) == (1, pytest.approx(40))
    assert count_cuts([17, 34], [17, 35]).accuracy == 100
    assert math.isnan(count_cuts([], []).accuracy)


def test_colours_jump_by_the_levels_that_a_frame_is_brighter() -> None:
    assert jump_between(NOISE, NOISE + np.uint8(7)) == pytest.approx(7, abs=0.01)
