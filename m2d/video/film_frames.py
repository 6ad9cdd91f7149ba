"""Decode a film frame by frame, and check that it is all there.

Owns the decoding loop, what counts as damage, and when the last frame ends. P frames, H height, W width, C
channels.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from m2d.limits import most_pixels
from m2d.video.open_film import FilmError, cut_off, frame_rate, opened_film, reason_of, refusing_corrupt
from m2d.video.pixels import rgb_of
from m2d.video.tone_mapping import is_high_dynamic_range, tone_mapped
from m2d.video.treatment import DEINTERLACED, Treatment
from m2d.video.whole import announced_end_s, is_whole, reaches

# A decoder left to itself conceals what it cannot read.
_STRICT = {"err_detect": "+explode+crccheck+bitstream+buffer"}
# Codecs whose packets are pictures. Others have packets that only help to decode, or repeat a picture.
_PICTURE_PER_PACKET = frozenset(
    {"h264", "hevc", "av1", "vp9", "mjpeg", "prores", "dnxhd", "ffv1", "mpeg1video", "mpeg2video"}
)

# Of times in containers.
_ROUNDING_S = 5e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFrame:
    """One decoded frame, not converted to RGB yet: most frames of a long film never are.

    Attributes:
        end_s: When the next frame is shown, or the film ends; None where the file does not say.
        picture: The frame as it is shown: deinterlaced, with the colours that players give it.
        notes: Remarks for the user on how the film is read, as far as this frame.
    """

    path: Path
    time_s: float
    end_s: float | None
    picture: VideoFrame
    notes: tuple[str, ...] = ()

    def rgb(self, *, upscale: int) -> np.ndarray:
        """Convert to uint8 RGB, HWC, one pixel for each block of `upscale` x `upscale`."""
        with refusing_corrupt(self.path):
            return rgb_of(self.picture, upscale=upscale)

    def thumbnail(self, *, side: int) -> np.ndarray:
        """Convert to uint8 BGR, HWC, at most `side` pixels wide and high, aspect ratio not kept."""
        width, height = min(self.picture.width, side), min(self.picture.height, side)
        with refusing_corrupt(self.path):
            picture = tone_mapped(self.picture) if is_high_dynamic_range(self.picture) else self.picture
            return picture.to_ndarray(format="bgr24", width=width, height=height, interpolation="AREA")


def film_frames(path: Path, *, is_strict: bool = False, start_s: float | None = None) -> Generator[FilmFrame]:
    """Decode a film frame by frame in display order, without keeping any.

    Packets that an edit list leaves out give no frame.

    Args:
        is_strict: Whether a frame with an error is refused; otherwise the decoder conceals the error.
        start_s: Time of the first frame, as the file counts it; decoding begins at the key frame before it.

    Raises:
        FilmError: As `opened_film`; or the film ends early, a packet is corrupt, or its size changes.
    """
    with opened_film(path) as (container, stream):
        if is_strict:
            stream.codec_context.options = _STRICT
        if start_s is not None and stream.time_base:
            container.seek(int(start_s / stream.time_base), stream=stream)
        reading = _Reading(path, container, stream, is_strict=is_strict)
        last: FilmFrame | None = None
        shortest_s = math.inf
        for frame in reading.frames():
            if start_s is not None and frame.time_s < start_s - _ROUNDING_S:
                continue
            if last is not None:
                shortest_s = min(shortest_s, frame.time_s - last.time_s)
                yield replace(last, end_s=frame.time_s)
            last = frame
        reading.check()
        if last is not None:
            yield replace(last, end_s=_last_end_s(last, announced_end_s(container, stream), shortest_s))


def _last_end_s(last: FilmFrame, announced_s: float | None, shortest_s: float) -> float | None:
    ends_s = [end_s for end_s in (last.end_s, announced_s) if end_s is not None]
    end_s = max(ends_s, default=last.time_s)
    # Some programs leave it open or write the time of another rate.
    is_known = end_s > last.time_s and (math.isinf(shortest_s) or end_s - last.time_s > 0.9 * shortest_s)
    return end_s if is_known else None


class _Reading:
    """Decodes the packets of one film and counts what they give."""

    def __init__(
        self, path: Path, container: InputContainer, stream: VideoStream, *, is_strict: bool
    ) -> None:
        self._path, self._container, self._stream, self._is_strict = path, container, stream, is_strict
        # The stream's own size follows the decoder from frame to frame.
        self._size = stream.width, stream.height
        self._treatment = Treatment()
        self._num_packets = self._num_pictures = self._num_frames = 0
        is_animation = container.format.name == "gif"
        self._pixels_left = most_pixels(path.stat().st_size, is_animation=is_animation)
        self._end_s = 0.0
        self._first_key: int | None = None
        # Timestamps of packets that have to give a picture, and that have given none yet.
        self._missing: set[int] = set()
        self._num_expected = 0

    def frames(self) -> Iterator[FilmFrame]:
        """Decode all frames; the end of each is its own duration, if the file has one."""
        fps = frame_rate(self._container, self._stream)
        for picture in self._pictures():
            # Some files of raw streams have no timestamps at all.
            time_s = float(self._num_frames / fps) if picture.time is None else picture.time
            duration_s = float(picture.duration * (picture.time_base or 0))
            end_s = time_s + duration_s if duration_s else None
            self._num_frames += 1
            yield FilmFrame(
                path=self._path, time_s=time_s, end_s=end_s, picture=picture, notes=self._treatment.notes
            )

    def check(self) -> None:
        """Check, after the last frame, that the file was read as far as its container says.

        Raises:
            FilmError: It ends early; or, if strict, a packet that is to be shown gave no picture.
        """
        stream = self._stream
        if self._num_packets < len(stream.index_entries):
            self._check_index()
        announced_s = announced_end_s(self._container, stream)
        has_sizes = is_whole(self._path, demuxer=self._container.format.name) is not None
        if announced_s and not has_sizes and not reaches(announced_s=announced_s, read_s=self._end_s):
            raise cut_off(self._path, f"it announces {announced_s:.1f} s and holds {self._end_s:.1f} s")
        # Pictures that were cut away may have the time of the key frame.
        num_lost = min(self._num_expected - self._num_pictures, len(self._missing))
        # Two packets may be the fields of one picture.
        is_one_each = (
            stream.codec_context.codec.canonical_name in _PICTURE_PER_PACKET
            and DEINTERLACED not in self._treatment.notes
        )
        if self._is_strict and is_one_each and num_lost > 0:
            place = (min(self._missing, default=0) - (stream.start_time or 0)) * (stream.time_base or 0)
            raise FilmError(
                f"{self._path}: {num_lost} of {self._num_expected} frames give no picture, the first at"
                f" {float(place):.1f} s; copy or download it again"
            )

    def _check_index(self) -> None:
        size_bytes = self._path.stat().st_size
        entries = self._stream.index_entries
        num_there = sum(entry.pos + entry.size <= size_bytes for entry in entries)
        if num_there < len(entries):
            raise cut_off(self._path, f"{num_there} of {len(entries)} frames in its index are there")

    def _pictures(self) -> Iterator[VideoFrame]:
        for packet in self._container.demux(self._stream):
            self._note(packet)
            try:
                pictures = self._stream.decode(packet)
            except av.FFmpegError as error:
                self._check_index()
                time_s = float((packet.pts or 0) * packet.time_base)
                raise self._corrupt(self._num_pictures, time_s, cause=error) from error
            for picture in pictures:
                self._check_picture(picture)
                yield from self._treatment.apply(picture)
        yield from self._treatment.flush()

    def _check_picture(self, picture: VideoFrame) -> None:
        self._missing.discard(picture.pts)
        number, self._num_pictures = self._num_pictures, self._num_pictures + 1
        # A video may change its size between frames; the frames of a scene cannot.
        if (picture.width, picture.height) != self._size:
            size = f"{picture.width}x{picture.height}"
            raise FilmError(
                f"{self._path}: its size changes to {size} at frame {number}; use a video of one size"
            )
        self._pixels_left -= picture.width * picture.height
        if self._pixels_left < 0:
            raise FilmError(
                f"{self._path}: has {self._path.stat().st_size:,} bytes for more than {number:,} frames of"
                f" {picture.width}x{picture.height} pixels; give a shorter or a smaller video"
            )
        if self._is_strict and picture.is_corrupt:
            raise self._corrupt(number, picture.time or 0.0)

    def _note(self, packet: Packet[VideoStream]) -> None:
        if not packet.size:
            return
        self._num_packets += 1
        if packet.pts is not None:
            self._end_s = max(self._end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if self._first_key is None and packet.is_keyframe:
            self._first_key = packet.pts or 0
        # Pictures before the first key frame need others that were cut away; some have no time any more.
        if packet.is_discard or packet.pts is None or self._first_key is None or packet.pts < self._first_key:
            return
        self._num_expected += 1
        self._missing.add(packet.pts)

    def _corrupt(self, number: int, time_s: float, *, cause: av.FFmpegError | None = None) -> FilmError:
        reason = f" ({reason_of(cause)})" if cause else ""
        time_s -= float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        return FilmError(
            f"{self._path}: frame {number}, at {time_s:.1f} s, is corrupt{reason}; copy or download it again"
        )
