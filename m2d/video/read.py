"""Read a film: its metadata, its provenance, and some of its frames; `film_frames` decodes them all.

Every function raises `FilmError` as `opened_film` does. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError, frame_rate, opened_film
from m2d.video.printable import printable
from m2d.video.provenance import Provenance, ProvenanceError, is_provenance, parse_provenance
from m2d.video.webp import is_webp


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """One chapter mark; the title is free of control characters."""

    title: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmInfo:
    """A film's metadata, known without decoding it; width and height are those of the encoded picture.

    Attributes:
        codec: Such as `h264`.
        num_frames: From the file's index; 0 when it has none.
        duration_s: From the file; 0 when it has none.
        title: The title tag, free of control characters.
        provenance: None when m2d did not make the film.
        pixel_aspect: Width of a pixel over its height.
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


@contextlib.contextmanager
def problems_of(film: Path) -> Iterator[None]:
    """Name `film` in every ProvenanceError of the block."""
    try:
        yield
    except ProvenanceError as error:
        raise ProvenanceError(f"{film}: {error}") from error


def probe(path: Path) -> FilmInfo:
    """Read a film's metadata without decoding it.

    Raises:
        ProvenanceError: The film's provenance is corrupt or describes another film.
    """
    with opened_film(path) as (container, stream):
        tags = {key.lower(): value for key, value in container.metadata.items()}
        with problems_of(path):
            provenance = _provenance(tags)
            if provenance:
                num_frames = _num_shown(container, stream)
                fps, width, height = frame_rate(container, stream), stream.width, stream.height
                provenance.check_film(num_frames=num_frames, width=width, height=height, fps=fps)
                provenance.check_runs()
        return FilmInfo(
            codec="webp" if is_webp(path) else stream.codec_context.codec.canonical_name,
            width=stream.width,
            height=stream.height,
            fps=frame_rate(container, stream),
            num_frames=stream.frames,
            duration_s=(container.duration or 0) / av.time_base,
            size_bytes=path.stat().st_size,
            title=printable(tags.get("title", ""), limit=500),
            chapters=_chapters(container),
            provenance=provenance,
            pixel_aspect=pixel_aspect(stream),
            has_sound=bool(container.streams.audio),
        )


def read_spans(path: Path, spans: Sequence[range], *, upscale: int) -> list[np.ndarray]:
    """Decode some spans of frames, keeping no others: uint8 RGB PHWC for every span.

    Args:
        spans: Frame numbers from 0; spans may overlap.
        upscale: Side, in pixels of the film, of the block that becomes one pixel.

    Raises:
        FilmError: Not a video, or shorter than the spans.
    """
    found: list[list[np.ndarray]] = [[] for _ in spans]
    end = max((span.stop for span in spans), default=0)
    with contextlib.closing(film_frames(path)) as frames:
        for index, frame in enumerate(itertools.islice(frames, end)):
            wanted = [part for part, span in zip(found, spans, strict=True) if index in span]
            if wanted:
                frame_HWC = frame.rgb(upscale=upscale)
                for part in wanted:
                    part.append(frame_HWC)
    if any(len(part) != len(span) for part, span in zip(found, spans, strict=True)):
        raise FilmError(f"{path}: has fewer frames than its provenance says; use the original film")
    return [np.stack(part) for part in found]


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height; 1 when the file does not say."""
    ratio = stream.sample_aspect_ratio
    return Fraction(ratio) if ratio and ratio > 0 else Fraction(1)


def _num_shown(container: InputContainer, stream: VideoStream) -> int:
    """Count the frames of a film without those that an edit list hides."""
    entries = stream.index_entries
    # Not every container has an index of all its frames; without one, the whole file is read.
    if entries and len(entries) == stream.frames:
        return sum(not entry.is_discard for entry in entries)
    return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


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
