"""When the frames of a video are shown, and which frame is nearest to a wanted time. P frames."""

from __future__ import annotations

import numpy as np

# A rate that is off by less is a camera's rounding, not another rate.
SAME_RATE = 0.01
# Longest over shortest time between frames: containers that keep milliseconds turn a thirtieth of a second
# into 33 and 34.
_STEADY_STEPS = 1.5


def shown_times_s(timestamps_s: np.ndarray) -> np.ndarray:
    """Times counted from the first frame, ascending, (P,).

    A badly assembled video may step back in time; players then show the next frame at once.
    """
    times_s: np.ndarray = np.maximum.accumulate(timestamps_s - timestamps_s[0])
    return times_s


def is_steady(times_s: np.ndarray) -> bool:
    """Whether all frames, at least two, are shown for the same time."""
    steps_s = np.diff(times_s)
    return bool(steps_s.max() <= _STEADY_STEPS * steps_s.min())


def nearest_frames(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Return the index of the frame nearest to each wanted time, of two the first; `times_s` ascends."""
    after = np.minimum(np.searchsorted(times_s, wanted_s), len(times_s) - 1)
    before = np.maximum(after - 1, 0)
    is_after = np.abs(times_s[after] - wanted_s) < np.abs(times_s[before] - wanted_s)
    # Several frames may have one time.
    return np.searchsorted(times_s, times_s[np.where(is_after, after, before)])
