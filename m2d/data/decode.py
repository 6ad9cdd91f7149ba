"""What worker processes do: scan a whole video, or read the frames of one clip.

A video that cannot be read is returned as `Broken`; the parent process decides what follows. P frames, H
height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from m2d.files import sha256_file
from m2d.video.crop_resize import Turn, cover, turn_of
from m2d.video.film_frames import film_frames
from m2d.video.frame_times import is_steady, shown_times_s
from m2d.video.open_film import FilmError, opened_film
from m2d.video.pixels import display_matrix, rgb_of
from m2d.video.read import pixel_aspect

Fit = Literal["cover", "official"]
# The display matrix's fixed-point 1, and the tolerance for a right angle.
_ONE, _SAME_PLACE = 1 << 16, 0.01
_VARYING = "its frame rate varies: frames are taken by their times"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """Facts of one readable video, measured by decoding all of it.

    Attributes:
        num_frames: Number of decoded frames.
        fps: Frames per second, on average.
        times_s: When each frame is shown, from 0 on; empty for a steady rate.
        width: Width of the encoded picture in pixels.
        height: Height of the encoded picture in pixels.
        shape: Width over height of the picture as it is shown, upright.
        notes: Remarks for the user on how it is read.
    """

    sha256: str
    num_frames: int
    fps: float
    times_s: tuple[float, ...]
    width: int
    height: int
    shape: float
    notes: tuple[str, ...]

    @property
    def is_steady(self) -> bool:
        """Whether all frames are shown for the same time."""
        return not self.times_s

    def frame_times_s(self) -> np.ndarray:
        """When each frame is shown, in seconds from the first, (frames,)."""
        return np.arange(self.num_frames) / self.fps if self.is_steady else np.array(self.times_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """The reason why a video or a clip cannot be used."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSize:
    """Size of the clips in pixels, and how a video of another shape is fitted into it.

    Attributes:
        fit: `cover` fills the size; `official` scales the short side and pads narrow videos with black.
    """

    height: int
    width: int
    fit: Fit


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRequest:
    """A clip to read.

    Attributes:
        identity: The `file_identity` of the video when it was scanned.
        frames: Frame indices, ascending.
    """

    video: Path
    identity: str
    frames: tuple[int, ...]
    size: ClipSize


def file_identity(path: Path) -> str:
    """Identify a file's content without reading it: any write changes the identity.

    Raises:
        OSError: There is no such file.
    """
    stat = path.stat()
    return f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def scan_video(path: Path) -> VideoFacts | Broken:
    """Decode a whole video; return its facts, or why it cannot be used."""
    try:
        return _scan(path)
    except (FilmError, OSError, MemoryError) as error:
        return Broken(reason=_reason(path, error))


def read_clip(request: ClipRequest) -> np.ndarray | Broken:
    """Read a clip, uint8 RGB, PHWC; or return why it cannot be read."""
    path = request.video
    try:
        if file_identity(path) != request.identity:
            return Broken(reason="was changed after it was scanned; start again")
        pictures = _pictures(request)
    except (FilmError, OSError, MemoryError) as error:
        return Broken(reason=_reason(path, error))
    missing = sorted(set(request.frames) - pictures.keys())
    if missing:
        return Broken(reason=f"frame {missing[0]} was there during the scan and is missing now")
    return np.stack([pictures[index] for index in request.frames])


def _scan(path: Path) -> VideoFacts | Broken:
    sha256 = sha256_file(path) if path.is_file() else ""
    timestamps_s: list[float] = []
    notes: list[str] = []
    treated: tuple[str, ...] = ()
    with opened_film(path) as (_, stream):
        fps = stream.average_rate or stream.guessed_rate
        width, height = stream.width, stream.height
        shape = float(Fraction(width, height) * pixel_aspect(stream))
    with contextlib.closing(film_frames(path, is_strict=True)) as frames:
        for frame in frames:
            if not timestamps_s:
                turn = _turn(path, frame.picture)
                shape = 1 / shape if turn.is_transposed else shape
                notes = [] if turn == Turn() else [f"{turn}, as its metadata says"]
            treated = frame.notes
            timestamps_s.append(float("nan") if frame.picture.time is None else frame.picture.time)
    if not fps or len(timestamps_s) < 2:
        found = f"{len(timestamps_s)} frame{'' if len(timestamps_s) == 1 else 's'}"
        return Broken(reason=f"holds {found} that can be decoded; give a video, not a still picture")
    # Some files of raw streams have no timestamps at all.
    has_times = not np.isnan(timestamps_s).any()
    times_s = (
        shown_times_s(np.array(timestamps_s)) if has_times else np.arange(len(timestamps_s)) / float(fps)
    )
    has_one_rate = is_steady(times_s)
    return VideoFacts(
        sha256=sha256,
        num_frames=len(timestamps_s),
        # The rate in a file's header may be wrong.
        fps=float((len(timestamps_s) - 1) / times_s[-1]) if times_s[-1] > 0 else float(fps),
        times_s=() if has_one_rate else tuple(map(float, times_s)),
        width=width,
        height=height,
        shape=shape,
        notes=(
            *notes,
            *treated,
            *([] if has_one_rate else ["its frame rate varies: frames are taken by their times"]),
        ),
    )


def _turn(path: Path, frame: VideoFrame) -> Turn:
    matrix = display_matrix(frame)
    turn = turn_of(matrix)
    if turn is None or any(abs(part / _ONE - round(part / _ONE)) > _SAME_PLACE for part in matrix[:2]):
        raise FilmError(f"{path}: its display matrix does not turn by a right angle; write it upright first")
    return turn


def _pictures(request: ClipRequest) -> dict[int, np.ndarray]:
    wanted, last = set(request.frames), max(request.frames)
    pictures: dict[int, np.ndarray] = {}
    with opened_film(request.video) as (_, stream):
        aspect = pixel_aspect(stream)
    with contextlib.closing(film_frames(request.video, is_strict=True)) as frames:
        for index, frame in enumerate(itertools.islice(frames, last + 1)):
            if index in wanted:
                pictures[index] = _fitted(frame.picture, request, aspect=aspect)
    return pictures


def _fitted(frame: VideoFrame, request: ClipRequest, *, aspect: Fraction) -> np.ndarray:
    turn = turn_of(display_matrix(frame)) or Turn()
    picture_HWC = rgb_of(frame, upscale=1)
    size = request.size
    if size.fit == "official":
        return _official(np.ascontiguousarray(turn.apply(picture_HWC)), size.height, size.width)
    shape = cover(
        width=frame.width,
        height=frame.height,
        pixel_aspect=aspect,
        turn=turn,
        target_width=size.width,
        target_height=size.height,
    )
    return shape.apply(picture_HWC)


def _official(picture_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale the short side to the target's short side and cut out the middle, padded with black."""
    picture = Image.fromarray(picture_HWC)
    scale = min(height, width) / min(picture.width, picture.height)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    scaled = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    # Pillow fills what lies outside the picture with black.
    return np.asarray(scaled.crop((left, top, left + width, top + height)))


def _reason(path: Path, error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.removeprefix(f"{path}: ")
