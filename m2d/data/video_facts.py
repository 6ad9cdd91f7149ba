"""What a scan measures by decoding a whole video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """Facts of one readable video.

    Attributes:
        sha256: Digest of the file's bytes.
        num_frames: Number of decoded frames.
        fps: Frames per second, on average.
        times_s: When each frame is shown, from 0 on; empty for a steady rate.
        width: Width of the encoded picture in pixels.
        height: Height of the encoded picture in pixels.
        notes: Remarks for the user on how it is read.
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
        """Return the facts as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VideoFacts:
        """Read what `as_json` wrote.

        Raises:
            KeyError: A value is missing.
        """
        return cls(
            sha256=str(values["sha256"]),
            num_frames=int(values["num_frames"]),
            fps=float(values["fps"]),
            times_s=tuple(map(float, values["times_s"])),
            width=int(values["width"]),
            height=int(values["height"]),
            notes=tuple(map(str, values["notes"])),
        )
