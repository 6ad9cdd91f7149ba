"""A dataset's description while it is read, what it is read into, and the list of everything wrong with it.

Owns shots, their groups, and the checks that all formats share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m2d.data.video_path import VideoPaths
from m2d.errors import DatasetError
from m2d.recipe.places import show

MOST_LISTED = 20
_MOST_NAMED = 5
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|//")


def first_few(places: Sequence[str]) -> str:
    """Name the first five places or files, and how many more there are."""
    more = f" and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else ""
    return ", ".join(places[:_MOST_NAMED]) + more


class Problems:
    """Collects what is wrong with a dataset, so that one error lists all of it."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def add(self, place: str, message: str) -> None:
        """Record one problem; `place` is `file:line`."""
        self._problems.append(f"{place}: {message}")

    def refuse(self) -> None:
        """Raise an error if there is any problem.

        Raises:
            DatasetError: The first twenty problems, and how many more there are.
        """
        if not self._problems:
            return
        more = len(self._problems) - MOST_LISTED
        rest = [f"and {more} more problems"] if more > 0 else []
        raise DatasetError("\n".join([*self._problems[:MOST_LISTED], *rest]))


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
    """Shots that follow each other in one story, at least one; `place` is `file:line`."""

    shots: tuple[Shot, ...]
    place: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetText:
    """A dataset's description and how to read it.

    Attributes:
        text: The file's text.
        name: The file as the user named it; every place starts with it.
        paths: Finds the videos.
        caption_field: Column or key of the captions.
    """

    text: str
    name: str
    paths: VideoPaths
    caption_field: str
    problems: Problems = field(default_factory=Problems)

    def video(self, place: str, field_name: str, value: object) -> Path | None:
        """Return the video file that a dataset names; record a problem and return None when there is none."""
        if not isinstance(value, str) or not value.strip():
            self.problems.add(place, f"{field_name}: {show(value)} is no path; name a video file")
            return None
        # One letter and a colon is a drive.
        if _ADDRESS.match(value) or "\0" in value:
            reason = "is an address; only files are read, download it first"
            self.problems.add(place, f"{field_name}: {value[:200]!r} {reason}")
            return None
        path = self.paths.find(value)
        if path is None:
            self.problems.add(place, f"{field_name}: {value}: {self.paths.why_missing(value)}")
        return path
