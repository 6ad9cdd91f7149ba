"""Stages `scan` and `clips`: which files of a folder are films, and the ranges in which they are read.

Only headers, packets and the first frame are read here; damage further inside is found by stage `shots`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2d.curation.data_set import DataSet
from m2d.curation.stage_file import Count, Outcome, PathBelow, Rate, Side, Time, key_of
from m2d.errors import DatasetError, InputError
from m2d.files import sha256_file
from m2d.video.crop_resize import shown_size, turn_of
from m2d.video.film_frames import film_frames
from m2d.video.formats import FORMATS_IN_WORDS, VIDEO_SUFFIXES
from m2d.video.frame_times import is_steady, shown_times_s
from m2d.video.open_film import FilmError, opened_film
from m2d.video.pixels import display_matrix
from m2d.video.read import pixel_aspect
from m2d.video.treatment import READING

# Raise them when the stages find other things.
_SCAN_VERSION, _CLIPS_VERSION = f"scan/1 {READING}", "clips/1"
_FEWEST_FRAMES = 2
# Titles of films of the puppet world begin with it.
PUPPET_TITLE = "Puppet "
# A last range that is shorter than this share belongs to the one before it.
_SHORTEST_CLIP = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """One readable video.

    Attributes:
        name: Path below the folder of films.
        num_frames: Number of packets, which is that of frames unless some are damaged.
        fps: Frames per second, on average.
        is_steady: Whether all frames are shown for the same time.
        zero_s: Time of the first frame as the file counts it; all other times start from it.
        width, height: Of the picture as it is shown, in pixels of equal sides.
        can_seek: Whether decoding can begin in the middle: its frames have times.
        is_puppet: Whether its title says that it shows the puppet world.
    """

    name: PathBelow
    sha256: str
    codec: str
    num_frames: Count
    fps: Rate
    is_steady: bool
    zero_s: float
    duration_s: Time
    width: Side
    height: Side
    can_seek: bool
    is_puppet: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRange:
    """A part of a film, from `start_s` up to `end_s`."""

    film: Film
    start_s: Time
    end_s: Time


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanTask:
    """One file to scan; `place` is its path below the folder of films."""

    path: Path
    place: str
    key: str


def check_films(data: DataSet) -> None:
    """Check, before anything is written, that a data set has films and lies apart from them.

    Raises:
        InputError: Its folder lies among the films: its videos would be inputs of the next run.
        DatasetError: As `find_films`.
    """
    films, folder = data.films_folder.resolve(), data.folder.resolve()
    if data.films.is_dir() and folder.is_relative_to(films):
        raise InputError(
            f"{data.folder}: lies in the folder of films {data.films}; choose another", argument="out"
        )
    find_films(data.films)


def find_films(folder: Path) -> list[Path]:
    """List the video files below a folder, or the file itself, sorted; hidden ones are left out.

    Raises:
        DatasetError: There is none, or a folder cannot be read.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give a folder of films, or one film")

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}; make it readable or move it")

    found = []
    for place, below, names in os.walk(folder, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            Path(place) / name
            for name in names
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
        ]
    if not found:
        raise DatasetError(f"{folder}: holds no video; give a folder with {FORMATS_IN_WORDS} files")
    return sorted(found)


def scan_tasks(folder: Path, films: Sequence[Path]) -> list[ScanTask]:
    """Return a task per file; its key changes with every write to the file."""
    tasks = []
    for path in films:
        name = path.name if path == folder else path.relative_to(folder).as_posix()
        try:
            stat = path.stat()
            identity = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            identity = (-1, -1)
        tasks.append(ScanTask(path=path, place=name, key=key_of(_SCAN_VERSION, name, *identity)))
    return tasks


def scan_film(task: ScanTask) -> Outcome[Film]:
    """Scan one file."""
    try:
        film = _scan(task)
    except (FilmError, OSError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).removeprefix(f"{task.path}: ")
        return Outcome(key=task.key, place=task.place, reason=reason)
    return Outcome(key=task.key, place=task.place, outputs=(film,))


def divide(films: Sequence[Outcome[Film]], *, clip_s: float) -> list[Outcome[ClipRange]]:
    """Divide films into ranges of at most `clip_s`; a file with the bytes of an earlier one is rejected."""
    found: list[Outcome[ClipRange]] = []
    first: dict[str, str] = {}
    for line in films:
        for film in line.outputs:
            key = key_of(_CLIPS_VERSION, film.name, film.sha256, clip_s)
            if film.sha256 in first:
                reason = f"is a copy: of {first[film.sha256]}"
                found.append(Outcome(key=key, place=film.name, reason=reason))
                continue
            first[film.sha256] = film.name
            found.append(Outcome(key=key, place=film.name, outputs=tuple(_ranges(film, clip_s))))
    return found


def _ranges(film: Film, clip_s: float) -> list[ClipRange]:
    count = max(math.ceil(film.duration_s / clip_s - _SHORTEST_CLIP), 1) if film.can_seek else 1
    ends = [clip_s * number for number in range(1, count)] + [film.duration_s]
    return [
        ClipRange(film=film, start_s=start_s, end_s=end_s)
        for start_s, end_s in zip([0.0, *ends], ends, strict=False)
    ]


def _scan(task: ScanTask) -> Film:
    path = task.path
    with opened_film(path) as (container, stream):
        fps = stream.average_rate or stream.guessed_rate
        times = [(packet.pts, packet.duration or 0) for packet in container.demux(stream) if packet.size]
        base = float(stream.time_base or 0)
        codec = stream.codec_context.codec.canonical_name
        aspect = pixel_aspect(stream)
        title = container.metadata.get("title", "")
    with contextlib.closing(film_frames(path, is_strict=True)) as frames:
        first = next(frames, None)
    if first is None or not fps or len(times) < _FEWEST_FRAMES:
        raise FilmError(f"{path}: holds {len(times)} frames; give a video, not a still picture")
    turn = turn_of(display_matrix(first.picture))
    if turn is None:
        raise FilmError(f"{path}: its display matrix does not turn by a right angle; write it upright first")
    can_seek = all(pts is not None for pts, _ in times)
    if can_seek:
        shown = np.sort(np.array([pts for pts, _ in times], dtype=np.float64)) * base
        shown_s = shown_times_s(shown[shown >= first.time_s - base])
    else:
        shown_s = np.arange(len(times)) / float(fps)
    last_s = float(shown_s[-1])
    rate = (len(shown_s) - 1) / last_s if last_s > 0 else float(fps)
    width, height = shown_size(first.picture.width, first.picture.height, float(aspect), turn)
    return Film(
        name=task.place,
        sha256=sha256_file(path),
        codec=codec,
        num_frames=len(shown_s),
        fps=round(rate, 6),
        is_steady=is_steady(shown_s),
        zero_s=first.time_s,
        duration_s=round(last_s + 1 / rate, 6),
        width=width,
        height=height,
        can_seek=can_seek,
        is_puppet=title.startswith(PUPPET_TITLE),
    )
