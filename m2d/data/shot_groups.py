"""A dataset on disk as what it says of itself: groups of shots, each a stretch of a video and a caption.

Owns the types that all formats are read to; opens no video.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One shot.

    Attributes:
        video: The video file.
        caption: What is seen.
        place: Where the dataset says so: `file:line`, and the field within the line if there are several.
        start_s: Where the shot begins in the video, in seconds from its first frame.
        end_s: Where it ends; None: with the video.
        sha256: What the video's bytes must hash to; None: the dataset does not tell.
    """

    video: Path
    caption: str
    place: str
    start_s: float = 0.0
    end_s: float | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotGroup:
    """Shots that follow each other in one story.

    Attributes:
        shots: At least one, in the story's order.
        place: `file:line`.
    """

    shots: tuple[Shot, ...]
    place: str
