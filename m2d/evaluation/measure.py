"""Measures the scenes of one story in a single pass over its videos; only measurements stay in memory.

Owns decoding and what is kept of a scene; `cache` stores it, `scores` compares scenes.
"""

from __future__ import annotations

import collections
import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from m2d.errors import InputError
from m2d.evaluation.embedder import Extractor, Vector, spread
from m2d.evaluation.frame_measures import FrameMeter, FrameStatistics, jump_between, shrunk
from m2d.evaluation.stories import VideoStory
from m2d.video.cuts import THUMBNAIL_SIDE, ShownPicture, find_cuts
from m2d.video.film_frames import FilmFrame, film_frames
from m2d.video.open_film import FilmError

# Frames of a scene on the page, and their longest side.
_PICTURES, _PICTURE_SIDE = 4, 200


class PairMeter(Protocol):
    """A distance of two pictures, such as LPIPS; protocol and digest are those of an extractor."""

    protocol: str
    digest: str

    def distance(self, first_HWC: np.ndarray, second_HWC: np.ndarray) -> float:
        """Return the distance of two uint8 RGB pictures of one size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruments:
    """What is measured besides the frames themselves.

    Attributes:
        pair: None leaves perceptual distances out.
        finds_cuts: Whether cuts are detected, which needs OpenCV.
    """

    extractors: Mapping[str, Extractor]
    pair: PairMeter | None = None
    finds_cuts: bool = True

    def identity(self) -> dict[str, str]:
        """Return the digest of the weights by protocol: equal identities measure the same."""
        found = {each.protocol: each.digest for each in self.extractors.values()}
        return found | ({self.pair.protocol: self.pair.digest} if self.pair else {})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SceneMeasures:
    """What is kept of one scene.

    Attributes:
        jump: Colour jump from the scene before, in levels; NaN for the first scene, as `across` is.
        features: Per extractor, its vector.
        within: Mean perceptual distance between first, middle and last frame; NaN if not measured.
        across: Perceptual distance between the middle frames of the scene before and of this one.
        picture: Some frames side by side, WebP.
    """

    statistics: FrameStatistics
    jump: float
    features: Mapping[str, Vector]
    within: float
    across: float
    picture: bytes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoryMeasures:
    """What is kept of one story; `cuts` are the frames where cuts were detected, None if not sought."""

    scenes: tuple[SceneMeasures, ...]
    cuts: tuple[int, ...] | None


class _SceneMeter:
    """Collects what is needed of one scene's frames while they are decoded."""

    def __init__(self, num_frames: int, instruments: Instruments) -> None:
        self._instruments = instruments
        self._picks = {name: each.picks(num_frames) for name, each in instruments.extractors.items()}
        self._shown = spread(num_frames, _PICTURES)
        self._ends = (0, (num_frames - 1) // 2, num_frames - 1)
        self._prepared: dict[str, dict[int, np.ndarray]] = {name: {} for name in self._picks}
        self._pictures: dict[int, np.ndarray] = {}
        self._frames: dict[int, np.ndarray] = {}
        self._meter = FrameMeter()

    def add(self, index: int, frame_HWC: np.ndarray) -> None:
        self._meter.add(frame_HWC)
        for name, extractor in self._instruments.extractors.items():
            if index in self._picks[name]:
                self._prepared[name][index] = extractor.prepare(frame_HWC)
        if index in self._shown:
            self._pictures[index] = shrunk(frame_HWC, _PICTURE_SIDE)
        if index in self._ends:
            self._frames[index] = frame_HWC

    def finish(self, before: tuple[np.ndarray, ...]) -> tuple[SceneMeasures, tuple[np.ndarray, ...]]:
        """Return the measurements, and first, middle and last frame; `before` are the earlier scene's."""
        ends = tuple(self._frames[index] for index in self._ends)
        features = {
            name: extractor.extract([self._prepared[name][index] for index in self._picks[name]])
            for name, extractor in self._instruments.extractors.items()
        }
        is_same_size = bool(before) and before[0].shape == ends[0].shape
        pair = self._instruments.pair
        measures = SceneMeasures(
            statistics=self._meter.finish(),
            jump=jump_between(before[2], ends[0]) if is_same_size else math.nan,
            features=features,
            within=np.mean([pair.distance(ends[0], ends[1]), pair.distance(ends[1], ends[2])]).item()
            if pair
            else math.nan,
            across=pair.distance(before[1], ends[1]) if pair and is_same_size else math.nan,
            picture=_strip([self._pictures[index] for index in self._shown]),
        )
        return measures, ends


class _StoryMeter:
    """Measures a story file by file; a scene's frames are freed when the scene is complete."""

    def __init__(self, story: VideoStory, instruments: Instruments) -> None:
        self.scenes: list[SceneMeasures] = []
        self._story, self._instruments = story, instruments
        self._before: tuple[np.ndarray, ...] = ()

    def frames_of(self, film: Path) -> Iterator[FilmFrame]:
        """Decode and measure a file; yield each of its frames."""
        spans = [scene for scene in self._story.scenes if scene.film == film]
        meters: dict[int, _SceneMeter] = {}
        num_done = len(self.scenes)
        with contextlib.closing(film_frames(film)) as frames:
            for number, frame in enumerate(frames):
                current = [at for at, span in enumerate(spans) if span.start <= number < span.stop]
                for at in current:
                    span, frame_HWC = spans[at], frame.rgb(upscale=self._story.upscale)
                    meter = meters.setdefault(at, _SceneMeter(span.stop - span.start, self._instruments))
                    meter.add(number - span.start, frame_HWC)
                    if number == span.stop - 1:
                        measures, self._before = meters.pop(at).finish(self._before)
                        self.scenes.append(measures)
                yield frame
        if len(self.scenes) - num_done < len(spans):
            raise FilmError(f"{film}: ends before scene {len(self.scenes) + 1} is complete")


def measure_story(story: VideoStory, instruments: Instruments) -> StoryMeasures:
    """Decode a story once and measure its scenes.

    Raises:
        FilmError: A video cannot be decoded to its end, or a scene is too short for an extractor.
    """
    _check_lengths(story, instruments)
    meter = _StoryMeter(story, instruments)
    cuts: list[int] | None = [] if instruments.finds_cuts and story.cuts else None
    for film in story.films:
        frames = meter.frames_of(film)
        if cuts is None:
            collections.deque(frames, maxlen=0)
        else:
            cuts += find_cuts(
                ShownPicture(frame.time_s, frame.thumbnail(side=THUMBNAIL_SIDE), frame.picture.key_frame)
                for frame in frames
            )
    return StoryMeasures(scenes=tuple(meter.scenes), cuts=None if cuts is None else tuple(cuts))


def has_cut_detection() -> bool:
    """Whether cuts can be detected here."""
    try:
        find_cuts(())
    except InputError:
        return False
    return True


def _check_lengths(story: VideoStory, instruments: Instruments) -> None:
    for number, scene in enumerate(story.scenes, start=1):
        for extractor in instruments.extractors.values():
            num_frames = scene.stop - scene.start
            if num_frames < extractor.fewest_frames:
                raise FilmError(
                    f"{scene.film}: scene {number} has {num_frames} frames; {extractor.protocol} needs at"
                    f" least {extractor.fewest_frames}"
                )


def _strip(pictures: Sequence[np.ndarray]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(file, "WEBP", quality=82, method=4)
    return file.getvalue()
