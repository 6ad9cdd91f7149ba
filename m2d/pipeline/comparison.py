"""Compare velocities and frames of two backends, or of two settings of one.

Owns the measures; which differences are acceptable is the caller's decision.
"""

# B batch, F latent frames, C channels, H W height and width, P frames

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2d.pipeline.recording import Call


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDifference:
    """Difference between two velocities for the same input.

    Attributes:
        window: The window of the story, from 0.
        step: The step of the window, from 1.
        relative_error: Norm of the difference over that of the expected velocity; infinite if a value is not
            finite.
        cosine: Cosine of the angle between the velocities.
        max_abs_error: Largest difference of an element.
    """

    window: int
    step: int
    relative_error: float
    cosine: float
    max_abs_error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmDifference:
    """Difference between the frames of two films.

    Attributes:
        psnr_db: PSNR over all frames; infinite if they are equal.
        max_pixel_difference: Largest difference of a channel value, in 255ths.
        differing_share: Share of the channel values that differ.
    """

    psnr_db: float
    max_pixel_difference: int
    differing_share: float


def step_differences(calls: Sequence[Call], velocities: Sequence[Tensor]) -> tuple[StepDifference, ...]:
    """Compare velocities with recorded ones; of a step with two calls, keep the larger difference."""
    found: list[StepDifference] = []
    windows = groupby(zip(calls, velocities, strict=True), key=lambda pair: pair[0].preparation)
    for window, (_, pairs) in enumerate(windows):
        steps = groupby(pairs, key=lambda pair: pair[0].timestep)
        for step, (_, of_step) in enumerate(steps, start=1):
            differences = [
                step_difference(call.velocity_BFCHW, velocity, window=window, step=step)
                for call, velocity in of_step
            ]
            found.append(max(differences, key=lambda difference: difference.relative_error))
    return tuple(found)


def film_difference(
    expected_PHWC: npt.NDArray[np.uint8], actual_PHWC: npt.NDArray[np.uint8]
) -> FilmDifference:
    """Compare the uint8 frames of two films."""
    difference = np.abs(expected_PHWC.astype(np.int16) - actual_PHWC.astype(np.int16))
    mean_square = float(np.mean(np.square(difference, dtype=np.float64)))
    return FilmDifference(
        psnr_db=float(10 * np.log10(255**2 / mean_square)) if mean_square else float("inf"),
        max_pixel_difference=int(difference.max()),
        differing_share=float(np.mean(difference > 0)),
    )


def step_difference(
    expected_BFCHW: Tensor, actual_BFCHW: Tensor, *, window: int, step: int
) -> StepDifference:
    """Compare two velocities."""
    expected, actual = expected_BFCHW.double().flatten(), actual_BFCHW.double().flatten()
    if expected.shape != actual.shape or not torch.isfinite(actual).all():
        infinite = float("inf")
        return StepDifference(
            window=window, step=step, relative_error=infinite, cosine=0.0, max_abs_error=infinite
        )
    difference = actual - expected
    return StepDifference(
        window=window,
        step=step,
        relative_error=float(difference.norm() / expected.norm()),
        cosine=float(torch.nn.functional.cosine_similarity(expected, actual, dim=0)),
        max_abs_error=float(difference.abs().max()),
    )
