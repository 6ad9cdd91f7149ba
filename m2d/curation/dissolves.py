"""Gradual transitions: dissolves, and fades to and from one colour.

During a dissolve every picture is a mix of the last picture before and the first one after it, and the share
of the second grows steadily. P pictures, D values of a tiny picture.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Lengths that are tried, in seconds; a window holds one transition and a little more on each side.
_WINDOWS_S = (0.4, 0.55, 0.75, 1.0, 1.35, 1.8, 2.4)
# Least change between both ends, in levels, and what a mix may leave unexplained, as a share of it.
_LEAST_CHANGE, _MOST_LEFT = 8.0, 0.3
# A picture with less contrast has one colour. If brightness and contrast explain more than half of a change
# of fewer levels, the light changes.
_ONE_COLOUR, _SAME_LOOK, _LIGHT = 4.0, 0.5, 40.0
# Shares of the second picture where a transition begins and ends, the largest step of a steady one, and steps
# back that compression makes.
_BEGINS, _LARGEST_STEP, _STEP_BACK = 0.08, 0.45, 0.08
_FEWEST_STEPS = 3


class Transition(NamedTuple):
    """Pictures of a transition: the last one that shows only the shot before, the first of the shot after."""

    before: int
    after: int


def find_dissolves(pictures_PD: Pictures, times_s: npt.NDArray[np.float64]) -> list[Transition]:
    """Return the transitions among distinct pictures, ascending, none overlapping another."""
    found: list[tuple[float, Transition]] = []
    for window_s in _WINDOWS_S:
        stops = np.searchsorted(times_s, times_s + window_s)
        for start, stop in enumerate(stops):
            if stop < len(times_s) and stop - start > _FEWEST_STEPS:
                judged = _judge(pictures_PD[start : stop + 1], offset=start)
                found += [judged] if judged else []
    chosen: list[Transition] = []
    # A window inside a slow transition shows a part of it.
    for _, transition in sorted(found, key=lambda each: (each[1].before - each[1].after, each[0])):
        if all(transition.after <= one.before or one.after <= transition.before for one in chosen):
            chosen.append(transition)
    return _through_one_colour(sorted(chosen), pictures_PD)


def _through_one_colour(transitions: list[Transition], pictures_PD: Pictures) -> list[Transition]:
    """Join a fade to one colour with the fade from it."""
    joined: list[Transition] = []
    for transition in transitions:
        if joined and _is_flat(pictures_PD[joined[-1].after : transition.before + 1]):
            joined[-1] = Transition(joined[-1].before, transition.after)
        else:
            joined.append(transition)
    return joined


def _is_flat(pictures_PD: Pictures) -> bool:
    """Whether pictures, at least one, have one colour each."""
    return len(pictures_PD) > 0 and float(pictures_PD.std(axis=1).max()) < _ONE_COLOUR


def _judge(window_PD: Pictures, *, offset: int) -> tuple[float, Transition] | None:
    """Return the transition in a window with what a mix leaves unexplained, or None."""
    first, last = window_PD[0].astype(np.float32), window_PD[-1].astype(np.float32)
    change_D = last - first
    size = float(np.sqrt(np.mean(change_D**2)))
    if size < _LEAST_CHANGE or _is_same_look(first, last, size):
        return None
    shares, left = _mix(window_PD, first, change_D)
    steps = np.diff(shares)
    if left.max() > _MOST_LEFT or steps.max() > _LARGEST_STEP or steps.min() < -_STEP_BACK:
        return None
    before = int(np.flatnonzero(shares <= _BEGINS)[-1])
    after = int(np.flatnonzero(shares >= 1 - _BEGINS)[0])
    # Both shots must be seen without the other.
    is_seen = [
        place or _is_flat(picture[None])
        for place, picture in ((before, window_PD[0]), (len(window_PD) - 1 - after, window_PD[-1]))
    ]
    if after - before < _FEWEST_STEPS or not all(is_seen):
        return None
    return float(left.max()), Transition(offset + before, offset + after)


def _mix(window_PD: Pictures, first_D: Floats, change_D: Floats) -> tuple[Floats, Floats]:
    """Return the share of the last picture in each one, and what the mix does not explain, of the change."""
    offsets_PD = window_PD.astype(np.float32) - first_D
    square = float(change_D @ change_D)
    shares: Floats = np.asarray(offsets_PD @ change_D / square, dtype=np.float32)
    left: Floats = np.sqrt(np.sum((offsets_PD - shares[:, None] * change_D) ** 2, axis=1) / square)
    return shares, left


def _is_same_look(first_D: Floats, last_D: Floats, size: float) -> bool:
    """Whether two pictures differ in brightness and contrast alone, as when the light changes."""
    spread = float(first_D.std())
    if min(spread, float(last_D.std())) < _ONE_COLOUR or size > _LIGHT:
        return False
    around, middle = first_D - first_D.mean(), last_D - last_D.mean()
    contrast = float(around @ middle) / (spread**2 * len(first_D))
    return float(np.sqrt(np.mean((middle - contrast * around) ** 2))) < _SAME_LOOK * size


def in_one_shot(transition: Transition, cuts: list[int]) -> bool:
    """Whether no cut lies inside a transition."""
    return not any(transition.before < cut <= transition.after for cut in cuts)


def spans(num_pictures: int, cuts: list[int], transitions: list[Transition]) -> list[tuple[int, int]]:
    """Return the first picture and one past the last of every shot, between cuts and transitions."""
    edges = [(cut, cut) for cut in cuts] + [(each.before + 1, each.after) for each in transitions]
    starts = [(0, 0), *sorted(edges), (num_pictures, num_pictures)]
    return [(left[1], right[0]) for left, right in pairwise(starts) if right[0] > left[1]]
