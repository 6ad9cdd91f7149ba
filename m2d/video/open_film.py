"""Open a video file, our own or any other, without letting it make the library open anything else.

Owns which files are opened and how large they may be; `read` decodes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from m2d.errors import InputError
from m2d.video.printable import printable

MOV_FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2")
_HEADER_BYTES = 8
_LONG_HEADER_BYTES = 16
MOST_BOXES = 10_000
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"})
# A text playlist named like a film would make the library open other files and addresses.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": f"{','.join(MOV_FORMATS)},matroska,webm,avi",
}
_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg"})
# The exceptions that a corrupt file can make PyAV raise.
_CORRUPT = (av.FFmpegError, ValueError, IndexError, OSError)


class FilmError(InputError):
    """A file that is not a video, is incomplete or corrupt, or is not read for safety's sake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """How large a film may be; a small file can decode to more than a machine's memory."""

    size_bytes: int = 4 << 30
    side: int = 8192
    num_frames: int = 50_000


@contextlib.contextmanager
def opened_film(path: Path, limits: ReadLimits | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a film and its video track; errors of the decoder while it is open become a `FilmError`.

    Raises:
        FilmError: Not a video, incomplete, too large, or of a format that is not read.
    """
    limits = limits or ReadLimits()
    _check_file(path, limits)
    # An absolute path is never taken for an address.
    with (
        refusing_corrupt(path),
        av.open(str(path.absolute()), options=_OPTIONS, metadata_errors="replace") as container,
    ):
        yield container, _video_stream(path, container, limits)


@contextlib.contextmanager
def refusing_corrupt(path: Path) -> Iterator[None]:
    """Turn what PyAV raises for a corrupt file into a `FilmError` that names it."""
    try:
        yield
    except _CORRUPT as error:
        reason = "is cut off or corrupt" if _is_mov(path) else "is not a film that can be read"
        allowed = "give a complete MP4, MOV, MKV, WebM or AVI file"
        raise FilmError(f"{path}: {reason} ({_reason(error)}); {allowed}") from error


def _check_file(path: Path, limits: ReadLimits) -> None:
    # Opening a device or a pipe may block for ever.
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise FilmError(f"{path}: {found}; give a video file")
    try:
        size_bytes = path.stat().st_size
        _is_mov(path)
    except OSError as error:
        raise FilmError(f"{path}: cannot be opened: {_reason(error)}; give a file you may read") from error
    if not 0 < size_bytes <= limits.size_bytes:
        raise FilmError(f"{path}: has {size_bytes} bytes; between 1 and {limits.size_bytes} are allowed")


def _video_stream(path: Path, container: InputContainer, limits: ReadLimits) -> VideoStream:
    # Checked first: a file whose end is missing may also lack its codec, its size or its video track.
    if container.format.name.split(",")[0] in MOV_FORMATS and _ends_early(path):
        raise FilmError(f"{path}: is cut off; its last part is missing, copy or download it again")
    cover_image = av.stream.Disposition.attached_pic
    stream = next((video for video in container.streams.video if not video.disposition & cover_image), None)
    if stream is None:
        others = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
        raise FilmError(f"{path}: holds no video, only {others}; give a video file")
    # PyAV gives a stream no context when it knows no decoder for it, whatever the annotation says.
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
    if codec not in _CODECS:
        allowed = ", ".join(sorted(_CODECS))
        raise FilmError(f"{path}: the codec {codec} is not read; convert it to one of {allowed}")
    if not (0 < stream.width <= limits.side and 0 < stream.height <= limits.side):
        raise FilmError(
            f"{path}: {stream.width}x{stream.height} pixels; at most {limits.side} a side are allowed"
        )
    if stream.frames > limits.num_frames:
        raise FilmError(
            f"{path}: {stream.frames} frames; at most {limits.num_frames} are allowed, cut it first"
        )
    return stream


def _reason(error: BaseException) -> str:
    return printable(str(getattr(error, "strerror", None) or error), limit=200)


def _is_mov(path: Path) -> bool:
    """Whether the file at `path` begins like an MP4 or MOV file."""
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)[4:] in _FIRST_BOXES


def _ends_early(path: Path) -> bool:
    """Whether the MP4 or MOV file at `path` lacks its index or is shorter than its boxes say.

    Decoders accept such a file and show the rest.
    """
    size_bytes = path.stat().st_size
    position, kinds = 0, set()
    with path.open("rb") as file:
        for _ in range(MOST_BOXES):
            file.seek(position)
            header = file.read(_LONG_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                break
            kinds.add(header[4:8])
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length == 0:
                # Length 0: the last box extends to the end of the file.
                return b"moov" not in kinds
            if length < _HEADER_BYTES:
                return True
            position += length
    return position != size_bytes or b"moov" not in kinds
