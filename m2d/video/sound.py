"""The sound of a film: its tracks, and their packets at new times for a film that keeps some of its scenes.

Sound is copied without encoding; only codecs that an MP4 cannot hold are encoded as AAC. `write` writes the
packets between those of the pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from m2d.video.open_film import opened_film
from m2d.video.printable import counted, printable

# Simple codecs of cameras and recorders; others are not decoded, for safety's sake. Few players read
# uncompressed sound in an MP4, and it cannot have gaps there.
_DECODED = ("pcm_", "adpcm_ms", "adpcm_ima_wav")
_AAC_RATE, _AAC_FRAME = 48_000, 1024
_LONGEST_LANGUAGE = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundTrack:
    """One sound track of a film; times are in seconds from the film's first frame.

    Attributes:
        codec: Such as `aac`; `unknown` when no decoder is known.
        language: Such as `eng`; empty when the file does not say.
    """

    codec: str
    channels: int
    sample_rate: int
    start_s: float
    duration_s: float
    language: str

    @property
    def is_kept(self) -> bool:
        """Whether a new film can have it."""
        return self.codec.startswith(_DECODED) or self.codec in _mp4_codecs()

    def __str__(self) -> str:
        channels = {1: "mono", 2: "stereo"}.get(self.channels, f"{self.channels} channels")
        language = f", {self.language}" if self.language else ""
        return f"{self.codec}, {channels}, {self.sample_rate} Hz, {self.duration_s:.1f} s{language}"


class SoundSpan(NamedTuple):
    """Sound to keep, in seconds: its start and end in its file, and its start in the new film."""

    start_s: float
    end_s: float
    place_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptSound:
    """The sound of a file, or pieces of it, for a new film.

    Attributes:
        spans: The pieces in their order, which is that of the new film; they do not overlap.
    """

    path: Path
    spans: tuple[SoundSpan, ...]


def sound_tracks(path: Path) -> tuple[SoundTrack, ...]:
    """Return the sound tracks of a film.

    Raises:
        FilmError: As `opened_film`.
    """
    with opened_film(path) as (container, video):
        return tuple(_track(track, container, video) for track in container.streams.audio)


def tracks_left_out(path: Path) -> str:
    """Name the tracks that no new film has, besides the pictures that are read and sound; empty for none.

    Raises:
        FilmError: As `opened_film`.
    """
    with opened_film(path) as (container, video):
        cover_image = av.stream.Disposition.attached_pic
        pictures = [each for each in container.streams.video if not each.disposition & cover_image]
        numbers = {
            "further picture track": len([each for each in pictures if each.index != video.index]),
            "subtitle track": len(container.streams.subtitles),
        }
    return ", ".join(counted(number, name) for name, number in numbers.items() if number)


def joined_spans(spans: Sequence[SoundSpan], *, tolerance_s: float) -> tuple[SoundSpan, ...]:
    """Join spans that follow each other both in their file and in the new film, so that nothing is cut there.

    Args:
        tolerance_s: By how much a span may be moved, such as half a frame.
    """
    joined: list[SoundSpan] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is not None:
            moved_s = (span.place_s - span.start_s) - (last.place_s - last.start_s)
            if abs(moved_s) <= tolerance_s and span.start_s <= last.end_s + tolerance_s:
                joined[-1] = last._replace(end_s=max(last.end_s, span.end_s))
                continue
            if last.end_s > span.start_s:
                span = SoundSpan(last.end_s, span.end_s, span.place_s + last.end_s - span.start_s)
        if span.end_s > span.start_s:
            joined.append(span)
    return tuple(joined)


def sound_packets(sound: KeptSound, target: OutputContainer) -> Iterator[Packet[Any]]:
    """Add the tracks of `sound` to `target`, and return their packets in the order of the file.

    Raises:
        FilmError: The file cannot be read.
    """
    packets = _read_packets(sound, target)
    # The tracks are there as soon as the file is open.
    next(packets)
    return (packet for packet in packets if packet is not None)


def _read_packets(sound: KeptSound, target: OutputContainer) -> Iterator[Packet[Any] | None]:
    # A generator: an error while the caller writes packets is not reported as one of this file.
    with opened_film(sound.path) as (container, video):
        tracks = {
            stream.index: _copy_of(stream, target)
            for stream in container.streams.audio
            if _track(stream, container, video).is_kept
        }
        yield None
        if tracks:
            yield from _placed(container, _origin_s(video), tracks, sound.spans)


def count_packets(path: Path) -> dict[int, int]:
    """Count the packets of each sound track of a film."""
    with opened_film(path) as (container, _):
        counts = {stream.index: 0 for stream in container.streams.audio}
        for packet in container.demux(*container.streams.audio) if counts else ():
            # The last, empty packets have no stream.
            if packet.size:
                counts[packet.stream_index] += 1
        return counts


class _Copy:
    """One track of the new film, whose packets are copied."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self._last_dts: Fraction | None = None

    def put(self, packet: Packet[Any], *, moved_s: float, is_new_span: bool) -> Iterator[Packet[Any]]:
        """Yield the packets of the new film for one of the file, which is moved by `moved_s` seconds."""
        del is_new_span
        assert packet.pts is not None
        ticks = round(moved_s / packet.time_base)
        packet.pts += ticks
        packet.dts = packet.pts if packet.dts is None else packet.dts + ticks
        packet.stream = self._stream
        at = packet.dts * packet.time_base
        # Files with broken times would stop the muxer.
        if self._last_dts is None or at > self._last_dts:
            self._last_dts = at
            yield packet

    def finish(self) -> Iterator[Packet[Any]]:
        """Yield the packets that are left."""
        yield from ()


class _Encoded:
    """One track of the new film, encoded as AAC."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self._resampler = self._new_resampler()

    def put(self, packet: Packet[Any], *, moved_s: float, is_new_span: bool) -> Iterator[Packet[Any]]:
        """As `_Copy.put`."""
        if is_new_span:
            # Frames of two spans would be joined into one; the rest of the earlier span is dropped.
            self._resampler = self._new_resampler()
        # PyAV's annotations know packets of pictures only.
        frames: Any = packet.decode()
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                frame.pts += round(moved_s / frame.time_base)
            for part in self._resampler.resample(frame):
                yield from self._stream.encode(part)

    def finish(self) -> Iterator[Packet[Any]]:
        """Yield the packets that are left."""
        for part in self._resampler.resample(None):
            yield from self._stream.encode(part)
        yield from self._stream.encode(None)

    def _new_resampler(self) -> AudioResampler:
        layout = self._stream.layout.name
        return AudioResampler(format="fltp", layout=layout, rate=_AAC_RATE, frame_size=_AAC_FRAME)


def _placed(
    container: InputContainer,
    origin_s: float,
    tracks: dict[int, _Copy | _Encoded],
    spans: Sequence[SoundSpan],
) -> Iterator[Packet[Any]]:
    span_of = dict.fromkeys(tracks, -1)
    streams = [stream for stream in container.streams.audio if stream.index in tracks]
    for packet in container.demux(*streams):
        if not packet.size or packet.pts is None:
            continue
        start_s = float(packet.pts * packet.time_base) - origin_s
        middle_s = start_s + float((packet.duration or 0) * packet.time_base) / 2
        index = _span_at(spans, middle_s)
        if index is None:
            continue
        moved_s = spans[index].place_s - spans[index].start_s - origin_s
        is_new_span = span_of[packet.stream_index] != index
        span_of[packet.stream_index] = index
        yield from tracks[packet.stream_index].put(packet, moved_s=moved_s, is_new_span=is_new_span)
    for track in tracks.values():
        yield from track.finish()


def _span_at(spans: Sequence[SoundSpan], time_s: float) -> int | None:
    """Return the span that holds a time; samples before time 0, which start a decoder, are in the first."""
    for index, span in enumerate(spans):
        if time_s < span.end_s and (time_s >= span.start_s or (index == 0 and span.start_s <= 0 > time_s)):
            return index
    return None


def _copy_of(stream: AudioStream, target: OutputContainer) -> _Copy | _Encoded:
    if _codec_of(stream).startswith(_DECODED):
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        new = target.add_stream("aac", rate=_AAC_RATE, layout=layout)
        copy: _Copy | _Encoded = _Encoded(new)
    else:
        new = target.add_stream_from_template(stream)
        copy = _Copy(new)
    if _language_of(stream):
        new.metadata["language"] = _language_of(stream)
    return copy


def _track(stream: AudioStream, container: InputContainer, video: VideoStream) -> SoundTrack:
    start = stream.start_time or 0
    context = stream.codec_context
    duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    return SoundTrack(
        codec=_codec_of(stream),
        channels=context.channels if context else 0,
        sample_rate=context.sample_rate if context else 0,
        start_s=float(start * (stream.time_base or 0)) - _origin_s(video),
        duration_s=(container.duration or 0) / av.time_base if duration_s is None else duration_s,
        language=_language_of(stream),
    )


def _origin_s(video: VideoStream) -> float:
    """Return the time of the first frame in the file."""
    return float((video.start_time or 0) * (video.time_base or 0))


def _codec_of(stream: AudioStream) -> str:
    # PyAV gives a stream no context when it knows no decoder for it, whatever the annotation says.
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"


def _language_of(stream: AudioStream) -> str:
    language = printable(stream.metadata.get("language", ""), limit=_LONGEST_LANGUAGE)
    return "" if language == "und" else language


def _mp4_codecs() -> frozenset[str]:
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        return frozenset(container.supported_codecs)
