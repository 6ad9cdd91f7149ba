"""Detectors of cuts, by name.

`m2d` and `adaptive` compare the distinct pictures of a range, so that held frames do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from m2d.errors import DatasetError, InputError, Remedy
from m2d.video.cuts import ShownPicture, find_cuts

Detector = Callable[[Iterable[ShownPicture]], list[int]]
# PySceneDetect counts in frames; this rate makes one of its frames a millisecond.
_TICKS = Fraction(1000)


def adaptive_cuts(frames: Iterable[ShownPicture]) -> list[int]:
    """Detect cuts with PySceneDetect's AdaptiveDetector at its defaults, a shortest scene of half a second.

    Raises:
        DatasetError: The package is not installed.
    """
    try:
        from scenedetect.common import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector
    except ImportError as error:
        raise DatasetError(
            "shots.detector: adaptive needs the package scenedetect; pip install 'm2d[data]'"
        ) from error
    from m2d.video.shot_changes import is_repeated

    detector = AdaptiveDetector(min_scene_len=500)
    cuts, at, shown = [], {}, None
    for number, frame in enumerate(frames):
        if shown is None or not is_repeated(shown, frame.picture_HWC):
            ticks = round(frame.time_s * 1000)
            at[ticks], shown = number, frame.picture_HWC
            cuts += detector.process_frame(FrameTimecode(ticks, _TICKS), shown)
    return sorted({at[cut.frame_num] for cut in cuts})


def check_detector(name: str) -> None:
    """Make sure that a detector can run, before processes start.

    Raises:
        InputError: Its weights are not in the cache.
    """
    if name == "transnetv2":
        from m2d.evaluation.networks import missing_networks

        if missing_networks([name]):
            raise InputError(f"shots.detector: the network {name} is not here", remedy=Remedy.GET_NETWORKS)


def transnet_cuts(frames: Iterable[ShownPicture]) -> list[int]:
    """Detect cuts with TransNetV2; raises CheckpointError if its weights are not in the cache."""
    # Imports torch.
    from m2d.curation.transnet import find_changes

    return find_changes(frames)


DETECTORS: Mapping[str, Detector] = {
    "m2d": find_cuts,
    "adaptive": adaptive_cuts,
    "transnetv2": transnet_cuts,
}
