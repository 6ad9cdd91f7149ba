"""Open a video file, our own or any other, without letting it make the library open anything else.

Owns which files are opened and how large they may be; `read` decodes them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from m2d.errors import InputError
from m2d.limits import MOST_ANIMATED_FRAMES, animation_problem, announced_problem, picture_problem
from m2d.reading import open_regular
from m2d.video.formats import CODECS, DEMUXERS, FORMATS_IN_WORDS
from m2d.video.printable import printable
from m2d.video.webp import is_webp, webp_film
from m2d.video.whole import count_gif_pictures, is_whole

_HEADER_BYTES = 8
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"})
# A text playlist named like a film would make the library open other files and addresses.
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
# The exceptions that a corrupt file can make PyAV raise.
_CORRUPT = (av.FFmpegError, ValueError, IndexError, OSError)


class FilmError(InputError):
    """A file that is not a video, is incomplete or corrupt, or is not read for safety's sake."""


@contextlib.contextmanager
def opened_film(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a film and its video track; errors of the decoder while it is open become a `FilmError`.

    Raises:
        FilmError: Not a video, incomplete, too large, or of a format that is not read.
    """
    _check_file(path)
    with (
        refusing_corrupt(path),
        av.open(_source(path), "r", options=_OPTIONS, metadata_errors="replace") as container,
    ):
        yield container, _video_stream(path, container)


@contextlib.contextmanager
def refusing_corrupt(path: Path) -> Iterator[None]:
    """Turn what PyAV raises for a corrupt file into a `FilmError` that names it."""
    try:
        yield
    except _CORRUPT as error:
        reason = "is cut off or corrupt" if _is_mov(path) else "is not a film that can be read"
        raise FilmError(
            f"{path}: {reason} ({reason_of(error)}); give a complete {FORMATS_IN_WORDS} file"
        ) from error


def _source(path: Path) -> str | io.BytesIO:
    if is_webp(path):
        if is_whole(path, demuxer="webp") is False:
            raise cut_off(path)
        return webp_film(path)
    # An absolute path is never taken for an address.
    return str(path.absolute())


def _check_file(path: Path) -> None:
    # Opening a device or a pipe may block for ever.
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise FilmError(f"{path}: {found}; give a video file")
    try:
        size_bytes = path.stat().st_size
        _is_mov(path)
    except OSError as error:
        raise FilmError(f"{path}: cannot be opened: {reason_of(error)}; give a file you may read") from error
    if not size_bytes:
        raise FilmError(f"{path}: has 0 bytes; give a video file")


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    is_gif = container.format.name == "gif"
    if is_gif:
        _check_gif(path, container)
    # Checked first: a file whose end is missing may also lack its codec, its size or its video track.
    if is_whole(path, demuxer=container.format.name) is False:
        raise cut_off(path)
    cover_image = av.stream.Disposition.attached_pic
    stream = next((video for video in container.streams.video if not video.disposition & cover_image), None)
    if stream is None:
        if not container.streams:
            raise FilmError(f"{path}: holds no frame and no sound; give a video file")
        # Any picture that is left is a cover.
        others = {"a cover picture" if other.type == "video" else other.type for other in container.streams}
        raise FilmError(f"{path}: holds no video, only {' and '.join(sorted(others))}; give a video file")
    # PyAV gives a stream no context when it knows no decoder for it, whatever the annotation says.
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
    if codec not in CODECS:
        allowed = ", ".join(sorted(CODECS))
        raise FilmError(f"{path}: the codec {codec} is not read; convert it to one of {allowed}")
    problem = picture_problem(stream.width, stream.height, is_animation=is_gif)
    if problem:
        raise FilmError(f"{path}: {problem}; give a smaller video")
    check_announced(path, num_frames=stream.frames, duration_s=(container.duration or 0) / av.time_base)
    return stream


def _check_gif(path: Path, container: InputContainer) -> None:
    """Count its pictures before any is decoded: a few bytes announce one of any size."""
    problem = animation_problem(
        size_bytes=path.stat().st_size,
        num_frames=count_gif_pictures(path, most=MOST_ANIMATED_FRAMES + 1),
        width=container.streams.video[0].width,
        height=container.streams.video[0].height,
    )
    if problem:
        raise FilmError(f"{path}: {problem}; convert it to MP4")


def cut_off(path: Path, detail: str = "its last part is missing") -> FilmError:
    """Return the error for a file that ends before its container says."""
    return FilmError(f"{path}: is cut off; {detail}, copy or download it again")


def check_announced(path: Path, *, num_frames: int, duration_s: float) -> None:
    """Check that a video file has bytes for what it announces, before any frame is decoded or written.

    Raises:
        FilmError: It announces more than it can hold.
    """
    problem = announced_problem(size_bytes=path.stat().st_size, num_frames=num_frames, duration_s=duration_s)
    if problem:
        raise FilmError(f"{path}: {problem}; its header or its timestamps are wrong, give another copy")


def frame_rate(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return the frame rate that the file announces.

    Raises:
        FilmError: It has none.
    """
    fps = stream.average_rate or stream.guessed_rate
    if not fps:
        raise FilmError(f"{container.name}: has no frame rate; give a video, not a still picture")
    return fps


def reason_of(error: BaseException) -> str:
    """Return the library's own words for an error, in printable characters."""
    return printable(str(getattr(error, "strerror", None) or error), limit=200)


def _is_mov(path: Path) -> bool:
    """Whether the file at `path` begins like an MP4 or MOV file."""
    with open_regular(path, limit_bytes=None) as file:
        return file.read(_HEADER_BYTES)[4:] in _FIRST_BOXES
