"""What a scan finds out about a video by decoding all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """One sound video.

    Attributes:
        sha256: Of the file's bytes.
        num_frames: Frames that were decoded.
        fps: Frames per second, on average.
        times_s: When each frame is shown, from 0 on; empty for a steady rate.
        width: Written width in pixels.
        height: Written height in pixels.
        notes: What is done to it when it is read, in plain words.
    """

    sha256: str
    num_frames: int
    fps: float
    times_s: tuple[float, ...]
    width: int
    height: int
    notes: tuple[str, ...]

    @property
    def is_steady(self) -> bool:
        """Whether all frames are shown for the same time."""
        return not self.times_s

    def frame_times_s(self) -> np.ndarray:
        """When each frame is shown, in seconds from the first, (frames,)."""
        return np.arange(self.num_frames) / self.fps if self.is_steady else np.array(self.times_s)

    def as_json(self) -> dict[str, Any]:
        """The facts in JSON's words."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> VideoFacts:
        """Read what `as_json` wrote.

        Raises:
            KeyError: Something is missing.
        """
        return cls(
            sha256=str(told["sha256"]),
            num_frames=int(told["num_frames"]),
            fps=float(told["fps"]),
            times_s=tuple(map(float, told["times_s"])),
            width=int(told["width"]),
            height=int(told["height"]),
            notes=tuple(map(str, told["notes"])),
        )
