"""What all dataset formats are read into: groups of shots, each a part of a video with a caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One shot.

    Attributes:
        place: Where the dataset names it: `file:line`, and the field within the line if there are several.
        start_s: Where the shot begins in the video, in seconds from its first frame.
        end_s: Where it ends; None is the end of the video.
        sha256: Expected digest of the video's bytes; None when the dataset has none.
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
