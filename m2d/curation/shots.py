"""Stage `shots`: decodes a range once, divides it at its cuts, and measures what later stages need.

Owns the single pass over the frames; `cut_detectors` and `dissolves` decide where shots begin. P frames, H
height, W width, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from m2d.curation.cut_detectors import DETECTORS
from m2d.curation.dissolves import find_dissolves, in_one_shot, spans
from m2d.curation.scan import ClipRange, Film
from m2d.curation.settings import ShotSettings
from m2d.curation.stage_file import Count, Key, Outcome, PathBelow, Rate, Side, Time, key_of
from m2d.curation.stills import SHORT_SIDE, Stills, StillsWriter, opened_stills, written_stills
from m2d.video.crop_resize import Turn, turn_of
from m2d.video.cuts import THUMBNAIL_SIDE, ShownPicture
from m2d.video.film_frames import FilmFrame, film_frames
from m2d.video.open_film import FilmError
from m2d.video.pixels import display_matrix
from m2d.video.shot_changes import is_repeated, unexplained
from m2d.video.tone_mapping import is_high_dynamic_range, tone_mapped

# Raise it when other shots are found or other values measured.
_VERSION = "shots/2"
_TINY = 32
_HASH_SIDE = 16
# Rows and columns of a border have one colour; the picture begins with a step. In levels.
_BORDER_RANGE, _BORDER_STEP = 8.0, 12.0
# A picture that is shown for longer stands still.
_HELD_S = 0.25
# Decoding began late if the first frame is so much after the start.
_LATE_S = 0.5
# Share of the picture after a dissolve that no motion explains from the one before. On puppet films dissolves
# leave at least 0.54, and movements that look like mixing at most 0.05.
_LEAST_NEW = 0.4
_Hash = Annotated[str, Field(pattern=rf"^[0-9a-f]{{1,{_HASH_SIDE**2 // 4}}}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One shot.

    Attributes:
        film: Name of its film, with the film's digest.
        place: Number of the range in its film, and of the shot in the range.
        begins, ends: How: `cut`, `dissolve`, or `range` where the range begins or ends.
        brightness: Mean level, 0 to 255.
        motion: Mean change between two pictures, in levels.
        border: Share of the height or width, whichever is larger, that a border of one colour takes.
        sharpness: Variance of the Laplacian, median over the stills.
        hashes: Difference hashes of a picture at the start, in the middle and at the end, in hex.
        stills: Key of the file with its stills.
    """

    film: PathBelow
    sha256: str
    start_s: Time
    end_s: Time
    num_frames: Count
    fps: Rate
    width: Side
    height: Side
    begins: str
    ends: str
    brightness: float
    motion: float
    border: float
    sharpness: float
    hashes: tuple[_Hash, _Hash, _Hash]
    stills: Key


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotsTask:
    """One range to divide."""

    path: Path
    clip: ClipRange
    settings: ShotSettings
    stills: Path
    key: str

    @property
    def place(self) -> str:
        """Names the range for people."""
        return f"{self.clip.film.name} {self.clip.start_s:.3f}-{self.clip.end_s:.3f} s"


def shots_key(clip: ClipRange, settings: ShotSettings) -> str:
    """Return the key of a range: its film's content, its span, and how it is divided."""
    film = clip.film
    how = (settings.detector, settings.dissolves)
    return key_of(_VERSION, film.name, film.sha256, clip.start_s, clip.end_s, *how)


def divide_range(task: ShotsTask) -> Outcome[Shot]:
    """Decode one range and return its shots."""
    try:
        shots = tuple(_shots(task))
    except (FilmError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).removeprefix(f"{task.path}: ")
        return Outcome(key=task.key, place=task.place, reason=reason)
    reason = "" if shots else "holds no shot: all of it is a transition"
    return Outcome(key=task.key, place=task.place, outputs=shots, reason=reason)


class _Measures:
    """What is kept of every frame of a range."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.tiny: list[np.ndarray] = []
        # Numbers of the first frame that shows each picture, and of the last one if it stands still.
        self.distinct: list[int] = []
        self.brightness: list[float] = []
        self.changes: list[float] = []
        self._before: np.ndarray | None = None

    def add(self, time_s: float, thumbnail_HWC: np.ndarray) -> None:
        change = 0.0
        if self._before is None or not is_repeated(self._before, thumbnail_HWC):
            if self._before is not None:
                change = float(cv2.absdiff(self._before, thumbnail_HWC).mean())
                if self.times_s[-1] - self.times_s[self.distinct[-1]] > _HELD_S:
                    self.distinct.append(len(self.times_s) - 1)
                    self.tiny.append(self.tiny[-1])
            self.distinct.append(len(self.times_s))
            tiny = cv2.resize(thumbnail_HWC, (_TINY, _TINY), interpolation=cv2.INTER_AREA)
            self.tiny.append(tiny.reshape(-1))
            self._before = thumbnail_HWC
        self.times_s.append(time_s)
        self.brightness.append(float(thumbnail_HWC.mean()))
        self.changes.append(change)


def range_frames(path: Path, clip: ClipRange) -> Generator[tuple[float, FilmFrame]]:
    """Decode a range strictly; yield the time of each frame from the film's first frame, and the frame.

    Raises:
        FilmError: As `film_frames`; or the range holds no frame.
    """
    film, count = clip.film, 0
    for start_s in [clip.start_s + film.zero_s, None] if film.can_seek and clip.start_s > 0 else [None]:
        try:
            for time_s, frame in _frames_from(path, clip, start_s=start_s):
                count += 1
                yield time_s, frame
        except FilmError:
            # A range that begins between key frames may need pictures before the one that was found.
            if count or start_s is None:
                raise
        if count:
            return
    raise FilmError(f"{path}: holds no frame from {clip.start_s:.3f} to {clip.end_s:.3f} s")


def _frames_from(path: Path, clip: ClipRange, *, start_s: float | None) -> Iterator[tuple[float, FilmFrame]]:
    shown_s = 0.0
    is_first = start_s is not None
    with contextlib.closing(film_frames(path, is_strict=True, start_s=start_s)) as frames:
        for frame in frames:
            # A badly assembled video may step back in time.
            shown_s = max(shown_s, frame.time_s - clip.film.zero_s)
            if is_first and shown_s > clip.start_s + _LATE_S:
                return
            is_first = False
            if shown_s >= clip.end_s - 5e-4 and clip.end_s < clip.film.duration_s:
                return
            if shown_s >= clip.start_s - 5e-4:
                yield shown_s, frame


def _shots(task: ShotsTask) -> Iterator[Shot]:
    measures, film = _Measures(), task.clip.film
    with written_stills(task.stills) as stills:
        cuts = DETECTORS[task.settings.detector](_pictures(task, measures, stills))
    cuts = [cut for cut in cuts if 0 < cut < len(measures.times_s)]
    times_s = np.array(measures.times_s)
    transitions = []
    if task.settings.dissolves and measures.tiny:
        distinct = np.array(measures.distinct)
        found = find_dissolves(np.stack(measures.tiny), times_s[distinct])
        frames = [type(each)(int(distinct[each.before]), int(distinct[each.after])) for each in found]
        with opened_stills(task.stills) as pictures:
            transitions = [
                each
                for each in frames
                if in_one_shot(each, cuts)
                and _is_new_shot(pictures, float(times_s[each.before]), float(times_s[each.after]))
            ]
    ends_s = np.append(times_s[1:], max(task.clip.end_s, times_s[-1]))
    gradual = {each.after for each in transitions} | {each.before + 1 for each in transitions}
    with opened_stills(task.stills) as pictures:
        for start, stop in spans(len(times_s), cuts, transitions):
            kinds = ["dissolve" if edge in gradual else "cut" for edge in (start, stop)]
            yield _shot(
                task,
                film,
                measures,
                pictures,
                frames=(start, stop),
                span_s=(round(float(times_s[start]), 6), round(float(ends_s[stop - 1]), 6)),
                kinds=("range" if start == 0 else kinds[0], "range" if stop == len(times_s) else kinds[1]),
            )


def _is_new_shot(stills: Stills, start_s: float, end_s: float) -> bool:
    """Whether a transition leads to another picture: a slow pan, too, looks like mixing at 32 pixels."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    before, after = (
        cv2.resize(stills.picture(time_s), size, interpolation=cv2.INTER_AREA)
        for time_s in stills.around(start_s, end_s)
    )
    return unexplained(before, after) >= _LEAST_NEW


def _pictures(task: ShotsTask, measures: _Measures, stills: StillsWriter) -> Iterator[ShownPicture]:
    with contextlib.closing(range_frames(task.path, task.clip)) as frames:
        for time_s, frame in frames:
            thumbnail_HWC = frame.thumbnail(side=THUMBNAIL_SIDE)
            measures.add(time_s, thumbnail_HWC)
            if stills.wants(time_s):
                stills.add(time_s, _still(frame, task.clip.film))
            yield ShownPicture(time_s, thumbnail_HWC, bool(frame.picture.key_frame))


def _still(frame: FilmFrame, film: Film) -> np.ndarray:
    """Return the upright picture with square pixels, its short side at most `SHORT_SIDE`, uint8 RGB HWC."""
    turn = turn_of(display_matrix(frame.picture)) or Turn()
    scale = min(SHORT_SIDE / min(film.width, film.height), 1.0)
    width, height = (max(round(side * scale), 1) for side in (film.width, film.height))
    if turn.is_transposed:
        width, height = height, width
    picture = tone_mapped(frame.picture) if is_high_dynamic_range(frame.picture) else frame.picture
    small_HWC = picture.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.ascontiguousarray(turn.apply(small_HWC))


def _shot(
    task: ShotsTask,
    film: Film,
    measures: _Measures,
    stills: Stills,
    *,
    frames: tuple[int, int],
    span_s: tuple[float, float],
    kinds: tuple[str, str],
) -> Shot:
    start, stop = frames
    changes = [change for change in measures.changes[start + 1 : stop] if change > 0]
    times_s = stills.times_s(*span_s)
    pictures = [stills.picture(time_s) for time_s in times_s[:: max(len(times_s) // 8, 1)]]
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    hashes = [difference_hash(greys[place]) for place in (0, len(greys) // 2, -1)]
    return Shot(
        film=film.name,
        sha256=film.sha256,
        start_s=span_s[0],
        end_s=span_s[1],
        num_frames=stop - start,
        fps=film.fps,
        width=film.width,
        height=film.height,
        begins=kinds[0],
        ends=kinds[1],
        brightness=round(float(np.mean(measures.brightness[start:stop])), 3),
        motion=round(sum(changes) / max(stop - start - 1, 1), 4),
        border=round(border_share(pictures), 4),
        sharpness=round(float(np.median([cv2.Laplacian(grey, cv2.CV_64F).var() for grey in greys])), 2),
        hashes=(hashes[0], hashes[1], hashes[2]),
        stills=task.key,
    )


def difference_hash(grey_HW: np.ndarray) -> str:
    """Return the difference hash (Krawetz 2013) of a picture with 16 x 16 bits, in hex."""
    small = np.asarray(Image.fromarray(grey_HW).resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX))
    bits = small[:, 1:] > small[:, :-1]
    return np.packbits(bits).tobytes().hex()


def border_share(pictures: list[np.ndarray]) -> float:
    """Return the largest share of a side that borders of one colour take in all pictures, uint8 RGB HWC."""
    low, high = (each.astype(np.float32) for each in (np.min(pictures, axis=0), np.max(pictures, axis=0)))
    return max(_border(low, high), _border(low.transpose(1, 0, 2), high.transpose(1, 0, 2)))


def _border(low_HWC: np.ndarray, high_HWC: np.ndarray) -> float:
    """Return the share of rows that bars of one colour take, one at each end, for all time."""
    rows, bars = len(low_HWC), []
    for order in (slice(None), slice(None, None, -1)):
        low_HC = np.minimum.accumulate(low_HWC[order].min(axis=1))
        high_HC = np.maximum.accumulate(high_HWC[order].max(axis=1))
        range_H = (high_HC - low_HC).max(axis=1)
        width = int(np.argmax(range_H > _BORDER_RANGE)) if (range_H > _BORDER_RANGE).any() else rows
        # The next rows must differ clearly: a clear sky has nearly one colour, too.
        is_bar = width < rows and range_H[min(width + 2, rows - 1)] > _BORDER_RANGE + _BORDER_STEP
        bars.append(width if is_bar else 0)
    return sum(bars) / rows if min(bars) else 0.0
