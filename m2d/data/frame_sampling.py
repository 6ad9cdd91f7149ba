"""Which frames of a shot a training sample takes.

The two sampling rules are pure functions of a video's facts and one random number; they read no video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from m2d.data.dataset_text import Shot
from m2d.data.decode import VideoFacts
from m2d.video.frame_times import SAME_RATE, nearest_frames
from m2d.video.printable import counted

Sampling = Literal["fps", "official"]
# Containers round times to a thousandth of a second.
_ROUNDING_S = 5e-4
_LARGEST_STRIDE = 3
_KEPT_SHARE, _TRIMMED_SHARE = 0.95, 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A shot's frames in its video: `first` up to, but not including, `stop`."""

    first: int
    stop: int

    def __len__(self) -> int:
        return max(self.stop - self.first, 0)


def span_of(shot: Shot, facts: VideoFacts) -> Span:
    """Find the frames shown between a shot's start and end."""
    times_s = facts.frame_times_s()
    stop_s = np.inf if shot.end_s is None else shot.end_s - _ROUNDING_S
    first, stop = np.searchsorted(times_s, [shot.start_s - _ROUNDING_S, stop_s])
    return Span(first=int(first), stop=int(stop))


@dataclass(frozen=True, kw_only=True, slots=True)
class FpsRule:
    """`num_frames` frames at the model's rate: the same time step in all scenes of all samples."""

    fps: int
    num_frames: int

    def unsuitable(self, facts: VideoFacts, span: Span) -> str:
        """Say why no clip can be taken; empty when one can."""
        if facts.fps < self.fps * (1 - SAME_RATE):
            return (
                f"has {facts.fps:.4g} frames per second, fewer than the {self.fps} asked for; "
                "frames would be shown twice, lower video.fps"
            )
        if not self._num_starts(facts, span):
            needed_s = (self.num_frames - 1) / self.fps
            has = f"has {counted(len(span), 'frame')} at {facts.fps:.4g} per second"
            return f"{has}; {self.num_frames} at {self.fps} per second take {needed_s:.2f} s"
        return ""

    def pick(self, facts: VideoFacts, span: Span, *, draw: float) -> tuple[int, ...]:
        """Return the frames nearest to steps of 1/fps from a drawn start, by index in the video."""
        times_s = facts.frame_times_s()
        start = span.first + int(draw * self._num_starts(facts, span))
        wanted_s = times_s[start] + np.arange(self.num_frames) / self.fps
        # Slightly early, so that rounding cannot decide between two frames that are equally near.
        nearest = nearest_frames(times_s, wanted_s - 1e-9)
        return tuple(int(index) for index in np.minimum(nearest, span.stop - 1))

    def _num_starts(self, facts: VideoFacts, span: Span) -> int:
        if not len(span):
            return 0
        times_s = facts.frame_times_s()[span.first : span.stop]
        # The last frame is the nearest for half its duration.
        last_s = times_s[-1] - (self.num_frames - 1) / self.fps + 0.5 / facts.fps
        return int(np.searchsorted(times_s, last_s - _ROUNDING_S))


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialRule:
    """Frames by stride, as Mask2DiT's training script takes them, whatever the video's rate.

    Attributes:
        is_trimmed: As in its pretraining: stride 3, away from both ends. Otherwise as in its SFT: the
            largest stride up to 3 that fits, anywhere.
    """

    num_frames: int
    is_trimmed: bool

    def unsuitable(self, facts: VideoFacts, span: Span) -> str:
        """Say why no clip can be taken; empty when one can."""
        if not facts.is_steady:
            return "has a variable frame rate, so a stride of frames would be jerky; use data.sampling: fps"
        if self.is_trimmed and len(span) * 0.9 // _LARGEST_STRIDE < self.num_frames:
            return (
                f"has {counted(len(span), 'frame')}; {self.num_frames} at stride 3 in the middle nine tenths "
                f"need {int(np.ceil(self.num_frames * _LARGEST_STRIDE / 0.9))}"
            )
        if len(span) < self.num_frames:
            return f"has {counted(len(span), 'frame')}; {self.num_frames} are needed"
        return ""

    def pick(self, facts: VideoFacts, span: Span, *, draw: float) -> tuple[int, ...]:
        """Return frames at one stride from a drawn start, by index in the video."""
        del facts
        if self.is_trimmed:
            stride, kept = _LARGEST_STRIDE, int(_KEPT_SHARE * len(span))
            earliest, latest = int(_TRIMMED_SHARE * kept), kept - self._reach(stride)
        else:
            stride = next(s for s in range(_LARGEST_STRIDE, 0, -1) if self._reach(s) <= len(span))
            earliest, latest = 0, len(span) - self._reach(stride)
        start = span.first + earliest + int(draw * (latest - earliest + 1))
        return tuple(range(start, start + self._reach(stride), stride))

    def _reach(self, stride: int) -> int:
        return (self.num_frames - 1) * stride + 1


ClipRule = FpsRule | OfficialRule


def why_unsuitable(shot: Shot, facts: VideoFacts, rule: ClipRule) -> str:
    """Say why no clip of a shot can be taken, as words behind the video's name; empty when one can."""
    span = span_of(shot, facts)
    end_s = float(facts.frame_times_s()[-1]) + 1 / facts.fps
    if not len(span) and shot.start_s >= end_s:
        return f"ends after {end_s:.4g} s: start_s {shot.start_s:g} lies behind the end of the video"
    return rule.unsuitable(facts, span)
