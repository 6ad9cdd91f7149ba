"""Where the scenes of a film begin: detected in its pictures, or given in seconds."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
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
# No movement changes so much, so still pictures that follow each other are scenes; in a fade, the next large
# change is nearly as large and comes at once.
_CERTAIN_SHARE, _FADE_STEP = 0.75, 0.8
# Pictures near a change, on each side, and what still parts of one change, in levels; measured on films of
# m2d that were encoded again.
_STILL_FOR_S, _FEWEST_NEAR, _MOST_NEAR = 0.8, 2, 8
_STILL, _RENEWED, _TIMES_STILL, _LEVEL_NOISE = 0.8, (0.5, 0.7), (0.65, 0.75), 0.3
# After a flash the picture from before it explains the new one; so much of the change may be left.
_COMES_BACK = 0.5


class ShownPicture(NamedTuple):
    """One frame of a film: when it is shown, its picture, uint8 BGR HWC, and whether it is a key frame."""

    time_s: float
    picture_HWC: np.ndarray
    is_key: bool = False


class _Change(NamedTuple):
    """A picture that differs from the one before it; all numbers, because a film of hours has many.

    Attributes:
        frame: Number of the first frame that shows it.
        gap_s: Time since the frame before, which may have shown the same picture as earlier ones.
        share: Share of the picture that the one before it does not explain.
        stillest_tenth: How much the stillest tenth of it changes, in levels.
        stillest_fifth: Likewise the stillest fifth.
        is_key: Whether it is a key frame, which changes still parts by itself.
    """

    frame: float
    time_s: float
    gap_s: float
    share: float
    stillest_tenth: float
    stillest_fifth: float
    is_key: float


class _Changes:
    """The changes of a film in their order, seven numbers each."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def append(self, change: _Change) -> None:
        self._numbers.extend(change)

    def __len__(self) -> int:
        return len(self._numbers) // len(_Change._fields)

    def between(self, start: int, stop: int) -> list[_Change]:
        """Return some of them; places outside are left out."""
        size = len(_Change._fields)
        return [
            _Change(*self._numbers[place * size : (place + 1) * size])
            for place in range(max(start, 0), min(stop, len(self)))
        ]


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
        from m2d.video.shot_changes import is_repeated, stillest_change, unexplained
    except ImportError as error:
        raise InputError(
            "finding the scenes of a film needs the package opencv-python-headless: pip install 'm2d[data]'",
            remedy=Remedy.GIVE_CUTS,
        ) from error
    changes = _Changes()
    flashes: set[float] = set()
    # Changes that may begin a flash, with the picture before each.
    opened: list[tuple[_Change, np.ndarray]] = []
    before: ShownPicture | None = None
    shown_s = 0.0
    for number, frame in enumerate(frames):
        gap_s, shown_s = frame.time_s - shown_s, frame.time_s
        if before is None or not is_repeated(before.picture_HWC, frame.picture_HWC):
            if before is not None:
                tenth, fifth = stillest_change(before.picture_HWC, frame.picture_HWC)
                change = _Change(
                    frame=number,
                    time_s=frame.time_s,
                    gap_s=gap_s,
                    share=unexplained(before.picture_HWC, frame.picture_HWC),
                    stillest_tenth=tenth,
                    stillest_fifth=fifth,
                    is_key=frame.is_key,
                )
                opened = [each for each in opened if change.time_s - each[0].time_s < SHORTEST_SCENE_S]
                for begin, picture_HWC in opened:
                    if unexplained(picture_HWC, frame.picture_HWC) < _COMES_BACK * begin.share:
                        flashes |= {begin.frame, number}
                if _stands_out(change, changes.between(len(changes) - _NEIGHBOURS, len(changes))):
                    opened.append((change, before.picture_HWC))
                changes.append(change)
            before = frame
    found = []
    for place in range(len(changes)):
        earlier = changes.between(place - _MOST_NEAR - 1, place)
        change, *later = changes.between(place, place + _MOST_NEAR + 2)
        stands_out = _stands_out(change, earlier[-_NEIGHBOURS:]) and _stands_out(change, later[:_NEIGHBOURS])
        if (stands_out and change.frame not in flashes) or _renews_still_parts(change, earlier, later):
            found.append(int(change.frame))
    return found


def _renews_still_parts(change: _Change, earlier: Sequence[_Change], later: Sequence[_Change]) -> bool:
    """Whether a change renews a picture whose stillest parts are otherwise still.

    Scenes in one place differ little where each was made on its own, but everywhere. Only films of few
    pictures a second tell: with more of them, compression changes still parts as much.
    """
    sides = [
        [other for other in side if abs(other.time_s - change.time_s) <= _STILL_FOR_S]
        for side in (earlier, later)
    ]
    if change.is_key or not all(_FEWEST_NEAR <= len(side) <= _MOST_NEAR for side in sides):
        return False
    tenth = max(other.stillest_tenth for side in sides for other in side)
    fifth = max(other.stillest_fifth for side in sides for other in side)
    return (
        fifth <= _STILL
        and change.stillest_tenth >= max(_RENEWED[0], _TIMES_STILL[0] * (tenth + _LEVEL_NOISE))
        and change.stillest_fifth >= max(_RENEWED[1], _TIMES_STILL[1] * (fifth + _LEVEL_NOISE))
    )


def _stands_out(change: _Change, others: Sequence[_Change]) -> bool:
    """Whether a change is more than the usual one of a few neighbours, or of nearly everything."""
    near = [other for other in others if abs(other.time_s - change.time_s) < _NEAR_S]
    usual = [_expected(other, change.gap_s) for other in near]
    least = _LEAST_SHARE + _TIMES_USUAL * (sum(usual) / len(usual) if usual else 0)
    at_once = [other for other in near if abs(other.time_s - change.time_s) < SHORTEST_SCENE_S]
    is_alone = all(other.share < _FADE_STEP * change.share for other in at_once)
    return change.share >= (min(least, _CERTAIN_SHARE) if is_alone else least)


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
