"""Where the scenes of a film begin: detected in its pictures, or given in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from m2d.errors import InputError, Remedy
from m2d.video.frame_times import nearest_frames

# Size of the pictures that are compared.
THUMBNAIL_SIDE = 128
# A shorter scene is a flash or a fast pan of the camera.
SHORTEST_SCENE_S = 0.5
# Measured on puppet films, natural films and their concatenations, held, frozen and at varying rates.
_LEAST_SHARE, _TIMES_USUAL = 0.12, 2.2
# Neighbours of a change are the nearest ones on each side, within some seconds.
_NEIGHBOURS, _NEAR_S = 3, 1.5
# In a longer gap more moves, but hardly ever everything.
_MOST_EXPECTED = 0.3
# No movement changes so much: still pictures that follow each other are scenes.
_CERTAIN_SHARE = 0.75
# After a flash the picture from before it explains the new one; so much of the change may be left.
_COMES_BACK = 0.5


class ShownPicture(NamedTuple):
    """One frame of a film: when it is shown, and its picture, uint8 BGR HWC."""

    time_s: float
    picture_HWC: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """A picture that differs from the one before it.

    Attributes:
        gap_s: Time since the frame before, which may have shown the same picture as earlier ones.
        share: Share of the picture that the one before it does not explain.
    """

    frame: int
    time_s: float
    gap_s: float
    share: float


def find_cuts(frames: Iterable[ShownPicture]) -> list[int]:
    """Detect cuts, ascending: frames whose picture the pictures before do not explain, whatever moved.

    Only distinct pictures are compared, so that a picture may be held for any number of frames, and by their
    times, so that the rate may vary. A change stands out against the changes before and after it, and what
    was there before does not come back at once, as after a flash of light. Slow dissolves and fades are not
    detected, nor is a cut to another actor in the same place and light.

    Args:
        frames: All frames of the film in their order.

    Raises:
        InputError: The package OpenCV is not installed.
    """
    try:
        from m2d.video.shot_changes import is_repeated, unexplained
    except ImportError as error:
        raise InputError(
            "finding the scenes of a film needs the package opencv-python-headless: pip install 'm2d[data]'",
            remedy=Remedy.GIVE_CUTS,
        ) from error
    changes: list[_Change] = []
    flashes: set[int] = set()
    # Changes that may begin a flash, with the picture before each.
    opened: list[tuple[_Change, np.ndarray]] = []
    before: ShownPicture | None = None
    shown_s = 0.0
    for number, frame in enumerate(frames):
        gap_s, shown_s = frame.time_s - shown_s, frame.time_s
        if before is None or not is_repeated(before.picture_HWC, frame.picture_HWC):
            if before is not None:
                share = unexplained(before.picture_HWC, frame.picture_HWC)
                change = _Change(frame=number, time_s=frame.time_s, gap_s=gap_s, share=share)
                opened = [each for each in opened if change.time_s - each[0].time_s < SHORTEST_SCENE_S]
                for begin, picture_HWC in opened:
                    if unexplained(picture_HWC, frame.picture_HWC) < _COMES_BACK * begin.share:
                        flashes |= {begin.frame, number}
                if _stands_out(change, changes[-_NEIGHBOURS:]):
                    opened.append((change, before.picture_HWC))
                changes.append(change)
            before = frame
    return [
        change.frame
        for place, change in enumerate(changes)
        if change.frame not in flashes
        and _stands_out(change, changes[max(place - _NEIGHBOURS, 0) : place])
        and _stands_out(change, changes[place + 1 : place + 1 + _NEIGHBOURS])
    ]


def _stands_out(change: _Change, others: Sequence[_Change]) -> bool:
    """Whether a change is more than the usual one of a few neighbours, or of nearly everything."""
    near = [other for other in others if abs(other.time_s - change.time_s) < _NEAR_S]
    usual = [_expected(other, change.gap_s) for other in near]
    least = _LEAST_SHARE + _TIMES_USUAL * (sum(usual) / len(usual) if usual else 0)
    return change.share >= min(least, _CERTAIN_SHARE)


def _expected(other: _Change, gap_s: float) -> float:
    """Return the share that the movement of a neighbour would change in a gap between frames."""
    longer = gap_s / other.gap_s if other.gap_s > 0 else 1.0
    return max(other.share, min(other.share * longer, _MOST_EXPECTED))


def without_flashes(cuts: Sequence[int], *, times_s: np.ndarray, end_s: float) -> list[int]:
    """Remove cuts until every scene lasts at least `SHORTEST_SCENE_S`.

    A shorter scene is joined to the next one, because a scene's end matters most; the last scene is joined
    to the one before it.

    Args:
        cuts: First frames of scenes, ascending.
        times_s: When each frame is shown, from 0 on, (P,).
        end_s: When the last frame ends.
    """
    kept: list[int] = []
    begun_s = 0.0
    for cut in cuts:
        cut_s = float(times_s[cut])
        if cut_s - begun_s >= SHORTEST_SCENE_S and end_s - cut_s >= SHORTEST_SCENE_S:
            kept.append(cut)
            begun_s = cut_s
    return kept


def place_cuts(cuts_s: Sequence[float], *, times_s: np.ndarray, end_s: float) -> list[int]:
    """Return the frames nearest to the given times: people read times off a player, which rounds them.

    Args:
        cuts_s: Where scenes begin, in seconds from the film's first frame, ascending; empty is one scene.

    Returns:
        First frames of all scenes but the first, ascending.

    Raises:
        InputError: A time outside the film, out of order, or nearest to the same frame as another.
    """
    check_cuts(cuts_s)
    outside = [cut_s for cut_s in cuts_s if cut_s >= end_s]
    if outside:
        raise InputError(
            f"{outside[0]:g} is not in the film, which ends at {end_s:.2f} s; give seconds between 0"
            " and that",
            argument="cuts",
        )
    places = [int(place) for place in nearest_frames(times_s, np.array(cuts_s, dtype=float))]
    for cut_s, place, before in zip(cuts_s, places, [0, *places], strict=False):
        if place <= before:
            raise InputError(
                f"{cut_s:g} leaves the scene before it without a frame; the film shows a new frame at"
                f" {times_s[before]:.3f} s, leave the cut out or move it",
                argument="cuts",
            )
    return places


def check_cuts(cuts_s: Sequence[float]) -> None:
    """Check the times as far as possible without the film.

    Raises:
        InputError: A time that is not finite, not positive or not after the one before it.
    """
    before_s = 0.0
    for cut_s in cuts_s:
        if not math.isfinite(cut_s) or cut_s <= before_s:
            wrong = f"after {before_s:g}" if math.isfinite(cut_s) else "a time"
            raise InputError(
                f"{cut_s:g} is not {wrong}; give the seconds at which scenes begin, ascending, such"
                " as 2.5,5.0",
                argument="cuts",
            )
        before_s = cut_s
