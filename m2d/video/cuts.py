"""Where the scenes of a film begin: detected in its pictures, or given in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from m2d.errors import InputError, Remedy
from m2d.video.frame_times import nearest_frames

# Size of the detector's pictures; PySceneDetect's own programs scale films to about this width.
THUMBNAIL_SIDE = 256
# A shorter scene is a flash or a fast pan of the camera.
SHORTEST_SCENE_S = 0.5
_ANY_RATE = 25.0


def find_cuts(pictures: Iterable[np.ndarray]) -> list[int]:
    """Detect cuts, ascending: frames where the colours change much more than just before and after.

    Fast movement is not mistaken for a cut; a flash of light may be. Slow dissolves and fades are not
    detected, nor is a cut to another actor in the same place and light.

    Args:
        pictures: uint8 BGR HWC, all frames of the film in their order.

    Raises:
        InputError: The package `scenedetect` is not installed.
    """
    try:
        # It imports OpenCV, which most films do not need.
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError as error:
        raise InputError(
            "finding the scenes of a film needs the package scenedetect: pip install 'm2d[data]'",
            remedy=Remedy.GIVE_CUTS,
        ) from error
    # The detector counts frames only: real times may vary, and `without_flashes` drops short scenes by them.
    detector = AdaptiveDetector(min_scene_len=0)
    found = []
    for index, picture_HWC in enumerate(pictures):
        found += detector.process_frame(FrameTimecode(index, fps=_ANY_RATE), picture_HWC)
    return [int(cut.frame_num) for cut in found]


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
