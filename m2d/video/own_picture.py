"""The picture and rate that an external video keeps, upright, with even sides and at one rate, or takes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from m2d.fit import FilmFit
from m2d.limits import FASTEST_FPS
from m2d.video.crop_resize import Turn
from m2d.video.frame_times import SAME_RATE, is_steady
from m2d.video.read import FilmInfo

_COMMON = tuple(
    Fraction(*rate)
    for rate in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1), (60000, 1001), (60, 1))
)
# Containers that keep milliseconds are off by less; the nearest common rates differ by twice as much.
_SAME_STEADY = 0.0005
# Cameras whose rate varies aim at a common one.
_SAME_VARYING = 0.03
# A film that shows fewer frames of a new scene than every second one is told.
_MOST_LEFT_OUT = 2
# Where the rate varies, a quarter of the steps is at the fastest rate that is more than a moment.
_FAST_PERCENTILE = 25


def own_fit(info: FilmInfo, turn: Turn, times_s: np.ndarray, *, model_fps: int) -> FilmFit:
    """Return how scenes of a model fit a video; H.264 needs even sides.

    Args:
        turn: How the encoded picture is turned upright.
        times_s: When each frame is shown, (P,).
    """
    width, height, aspect = info.width, info.height, info.pixel_aspect
    if turn.is_transposed:
        width, height, aspect = height, width, 1 / aspect
    return FilmFit(
        width=max(width - width % 2, 2),
        height=max(height - height % 2, 2),
        pixel_aspect=aspect,
        fps=constant_rate(times_s, announced=info.fps),
        model_fps=model_fps,
    )


def own_rate_notes(times_s: np.ndarray, fit: FilmFit) -> list[str]:
    """Report a varying rate, which a film cannot have, and one that shows little of new scenes."""
    notes = []
    if times_s[0] != times_s[-1] and not is_steady(times_s):
        notes.append(f"its varying rate becomes {float(fit.fps):.4g} frames per second: frames are repeated")
    if fit.fps * _MOST_LEFT_OUT < fit.model_fps:
        notes.append(
            f"has {float(fit.fps):.3g} frames per second: new scenes, made with {fit.model_fps}, show few of "
            "their frames; the fit 'model' shows all"
        )
    return notes


def model_rate_notes(times_s: np.ndarray, *, fps: int) -> list[str]:
    """Report how frames shown at these times are taken at the rate of the model."""
    if times_s[0] == times_s[-1]:
        return []
    rate = (len(times_s) - 1) / float(times_s[-1] - times_s[0])
    has_one_rate = is_steady(times_s)
    if has_one_rate and abs(rate / fps - 1) < SAME_RATE:
        return []
    varying = "" if has_one_rate else " (average of a varying rate)"
    notes = [f"resampled from {rate:.4g}{varying} to {fps} frames per second"]
    if rate < fps * (1 - SAME_RATE):
        notes.append("frames are repeated: the video has fewer per second")
    return notes


def constant_rate(times_s: np.ndarray, *, announced: Fraction) -> Fraction:
    """Return the rate, in frames per second, of a film that shows frames at these times.

    Of a varying rate it is the fastest that lasts, so that slower parts repeat frames.

    Args:
        times_s: When each frame is shown, ascending, (P,).
        announced: The rate in the file's header, for a video of one frame.
    """
    steps_s = np.diff(times_s)
    steps_s = steps_s[steps_s > 0]
    if not len(steps_s):
        return min(announced, Fraction(FASTEST_FPS))
    steady = is_steady(times_s)
    step_s = float(np.mean(steps_s)) if steady else float(np.percentile(steps_s, _FAST_PERCENTILE))
    rate = min(Fraction(1 / step_s).limit_denominator(1001), Fraction(FASTEST_FPS))
    nearest = min(_COMMON, key=lambda common: abs(common / rate - 1))
    is_same = abs(nearest / rate - 1) <= (_SAME_STEADY if steady else _SAME_VARYING)
    return nearest if is_same else rate
