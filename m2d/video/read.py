"""Read films, our own and anybody's, without letting them read anything else.

Owns what may be opened, how large it may be, and the way from a file to frames, chapters and provenance.
P frames, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from m2d.errors import InputError
from m2d.video.crop_resize import Turn, turn_of
from m2d.video.mp4_boxes import MOV_FORMATS, ends_early, is_mov
from m2d.video.pixels import display_matrix, rgb_of
from m2d.video.printable import printable
from m2d.video.provenance import Provenance
from m2d.video.provenance_text import is_provenance, parse_provenance

# A text playlist named like a film would make the library open other files and addresses.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": f"{','.join(MOV_FORMATS)},matroska,webm,avi",
}
_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg"})
# What a broken file can make PyAV raise.
_BROKEN = (av.FFmpegError, ValueError, IndexError, OSError)


class FilmError(InputError):
    """A file that is not a film, not a complete one, or one that is not read for safety's sake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """How large a film may be; a small file can unfold into more than a machine holds."""

    size_bytes: int = 4 << 30
    side: int = 8192
    num_frames: int = 50_000
    decoded_bytes: int = 4 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """One chapter mark; the title is free of control characters."""

    title: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmInfo:
    """What a film says about itself without being decoded.

    Attributes:
        codec: Such as `h264`.
        width: Written width in pixels.
        height: Written height in pixels.
        fps: Average frames per second.
        num_frames: As the file's index tells; 0 when it does not.
        duration_s: As the file tells; 0 when it does not.
        size_bytes: The file's size.
        title: The title tag, free of control characters.
        chapters: In the order of time.
        provenance: None when the film is not one of m2d's.
        pixel_aspect: How many times as wide as high a pixel is shown.
        has_sound: Whether there is a sound track.
    """

    codec: str
    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration_s: float
    size_bytes: int
    title: str
    chapters: tuple[Chapter, ...]
    provenance: Provenance | None
    pixel_aspect: Fraction
    has_sound: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFrame:
    """One decoded frame, not converted yet: most frames of a long film are only looked at.

    Attributes:
        path: The film, for messages.
        time_s: When it is shown.
        picture: The decoder's frame.
    """

    path: Path
    time_s: float
    picture: VideoFrame

    def rgb(self, *, upscale: int) -> np.ndarray:
        """uint8 RGB, HWC, each block of `upscale` x `upscale` pixels taken back to one."""
        with _refusing_broken(self.path):
            return rgb_of(self.picture, upscale=upscale)

    def thumbnail(self, *, side: int) -> np.ndarray:
        """uint8 BGR, HWC, at most `side` pixels wide and high, of any proportion; for programs to look at."""
        width, height = min(self.picture.width, side), min(self.picture.height, side)
        with _refusing_broken(self.path):
            return self.picture.to_ndarray(format="bgr24", width=width, height=height, interpolation="AREA")


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """A decoded film.

    Attributes:
        frames_PHWC: uint8 RGB; at the size the model made when the provenance tells the upscale factor. A
            film of somebody else's is turned by right angles as it asks to be, as phones' films do.
        timestamps_s: When each frame is shown, (P,).
        info: What the film says about itself.
    """

    frames_PHWC: np.ndarray
    timestamps_s: tuple[float, ...]
    info: FilmInfo

    @property
    def fps(self) -> Fraction:
        """Average frames per second."""
        return self.info.fps

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """In the order of time."""
        return self.info.chapters

    @property
    def provenance(self) -> Provenance | None:
        """None when the film is not one of m2d's."""
        return self.info.provenance

    @property
    def scenes(self) -> tuple[np.ndarray, ...]:
        """The frames of each scene, PHWC, as the provenance divides them; all in one without provenance.

        Frames of a crossfade belong to both scenes.
        """
        if self.provenance is None:
            return (self.frames_PHWC,)
        return tuple(
            self.frames_PHWC[scene.first_frame : scene.first_frame + scene.num_frames]
            for scene in self.provenance.scenes
        )


def probe(path: Path, *, limits: ReadLimits | None = None) -> FilmInfo:
    """Read what a film says about itself, without decoding it.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
        ProvenanceError: The film's provenance is damaged or tells of another film.
    """
    with opened_film(path, limits) as (container, stream):
        return _info(container, stream, size_bytes=path.stat().st_size)


def read_film(path: Path, *, limits: ReadLimits | None = None) -> Film:
    """Decode a whole film.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
        ProvenanceError: The film's provenance is damaged or tells of another film.
    """
    limits = limits or ReadLimits()
    with opened_film(path, limits) as (container, stream):
        info = _info(container, stream, size_bytes=path.stat().st_size)
        upscale = info.provenance.video.upscale if info.provenance else 1
        frames, timestamps_s = [], []
        held_bytes, turn = 0, Turn()
        for index, frame in enumerate(_decoded(container, stream)):
            if index == 0 and info.provenance is None:
                turn = turn_of(display_matrix(frame)) or Turn()
            frames.append(turn.apply(rgb_of(frame, upscale=upscale)))
            timestamps_s.append(_time_s(frame, index=index, fps=info.fps))
            held_bytes += frames[-1].nbytes
            if index >= limits.num_frames or held_bytes > limits.decoded_bytes:
                raise FilmError(
                    f"{path}: longer than {index} frames of {info.width}x{info.height}; cut it first"
                )
    frames_PHWC = _stacked(path, frames)
    if info.provenance:
        info.provenance.check_film(num_frames=len(frames), width=info.width, height=info.height)
    return Film(frames_PHWC=frames_PHWC, timestamps_s=tuple(timestamps_s), info=info)


def film_frames(path: Path, *, limits: ReadLimits | None = None) -> Generator[FilmFrame]:
    """Decode a film frame by frame, holding none, in the order they are shown.

    Args:
        path: The film.
        limits: `decoded_bytes` does not count here.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
    """
    limits = limits or ReadLimits()
    with opened_film(path, limits) as (container, stream):
        fps = _fps(container, stream)
        for index, picture in enumerate(_decoded(container, stream)):
            if index >= limits.num_frames:
                raise FilmError(
                    f"{path}: longer than {index} frames of {stream.width}x{stream.height}; cut it first"
                )
            yield FilmFrame(path=path, time_s=_time_s(picture, index=index, fps=fps), picture=picture)


@contextlib.contextmanager
def opened_film(path: Path, limits: ReadLimits | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a film, with its picture track; what breaks while it is open is told as the film's fault.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
    """
    limits = limits or ReadLimits()
    _check_file(path, limits)
    # An absolute path is never taken for an address.
    with (
        _refusing_broken(path),
        av.open(str(path.absolute()), options=_OPTIONS, metadata_errors="replace") as container,
    ):
        yield container, _video_stream(path, container, limits)


@contextlib.contextmanager
def _refusing_broken(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = "is cut off or damaged" if is_mov(path) else "is not a film that can be read"
        allowed = "give a complete MP4, MOV, MKV, WebM or AVI file"
        raise FilmError(f"{path}: {reason} ({_reason(error)}); {allowed}") from error


def _check_file(path: Path, limits: ReadLimits) -> None:
    # Not a device or a pipe: opening those may wait for ever.
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise FilmError(f"{path}: {found}; give a video file")
    try:
        size_bytes = path.stat().st_size
        is_mov(path)
    except OSError as error:
        raise FilmError(f"{path}: cannot be opened: {_reason(error)}; give a file you may read") from error
    if not 0 < size_bytes <= limits.size_bytes:
        raise FilmError(f"{path}: has {size_bytes} bytes; between 1 and {limits.size_bytes} are allowed")


def _video_stream(path: Path, container: InputContainer, limits: ReadLimits) -> VideoStream:
    # First, because an index whose end is missing tells of no codec, of no size, or of no picture at all.
    if container.format.name.split(",")[0] in MOV_FORMATS and ends_early(path):
        raise FilmError(f"{path}: is cut off; its last part is missing, copy or download it again")
    stream = next((video for video in container.streams.video if not _is_cover(video)), None)
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


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _info(container: InputContainer, stream: VideoStream, *, size_bytes: int) -> FilmInfo:
    tags = {key.lower(): value for key, value in container.metadata.items()}
    provenance = _provenance(tags)
    if provenance:
        num_frames = stream.frames or provenance.num_frames
        provenance.check_film(num_frames=num_frames, width=stream.width, height=stream.height)
    fps = _fps(container, stream)
    return FilmInfo(
        codec=stream.codec_context.codec.canonical_name,
        width=stream.width,
        height=stream.height,
        fps=fps,
        num_frames=stream.frames,
        duration_s=(container.duration or 0) / av.time_base,
        size_bytes=size_bytes,
        title=printable(tags.get("title", ""), limit=500),
        chapters=_chapters(container),
        provenance=provenance,
        pixel_aspect=_pixel_aspect(stream),
        has_sound=bool(container.streams.audio),
    )


def _pixel_aspect(stream: VideoStream) -> Fraction:
    told = stream.sample_aspect_ratio
    return Fraction(told) if told and told > 0 else Fraction(1)


def _fps(container: InputContainer, stream: VideoStream) -> Fraction:
    fps = stream.average_rate or stream.guessed_rate
    if not fps:
        raise FilmError(f"{container.name}: tells no frame rate; give a video, not a still picture")
    return fps


def _time_s(frame: VideoFrame, *, index: int, fps: Fraction) -> float:
    # Some files of raw streams tell no times at all.
    return float(index / fps) if frame.time is None else frame.time


def _chapters(container: InputContainer) -> tuple[Chapter, ...]:
    return tuple(
        Chapter(
            title=printable(chapter["metadata"].get("title", ""), limit=500),
            start_s=float(chapter["start"] * (chapter["time_base"] or 0)),
            end_s=float(chapter["end"] * (chapter["time_base"] or 0)),
        )
        for chapter in container.chapters()
    )


def _provenance(tags: dict[str, str]) -> Provenance | None:
    # Other programs drop the tag of ours but keep the comment.
    texts = [tags[key] for key in ("m2d.recipe", "comment") if is_provenance(tags.get(key, ""))]
    return parse_provenance(texts[0]) if texts else None


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for frame in container.decode(stream):
        # A film may change its size on the way; frames of one film do not.
        if (frame.width, frame.height) != (stream.width, stream.height):
            raise FilmError(f"{container.name}: its size changes to {frame.width}x{frame.height} on the way")
        yield frame


def _stacked(path: Path, frames: list[np.ndarray]) -> np.ndarray:
    if not frames:
        raise FilmError(f"{path}: holds no frame that can be decoded; give a complete video file")
    return np.stack(frames)


def _reason(error: BaseException) -> str:
    return printable(str(getattr(error, "strerror", None) or error), limit=200)
