"""What is done to decoded frames before they are pictures: fields become frames, and HD gets its colours.

FFmpeg's filters do the work. Owns when one is needed, and the notes about it for the user; `pixels` maps the
tones of the frames that are used.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame

from m2d.video.tone_mapping import is_high_dynamic_range

# Raise it when frames are read in another way: caches of what models make of them depend on it.
READING = "m2d.frames/2"
# One frame for each frame, from both fields; frames that are not interlaced pass unchanged.
_DEINTERLACE = "mode=send_frame:parity=auto:deint=interlaced"
# The numbers of ITU-T H.273 for BT.709, and for no statement; `_RGB` has no matrix.
_BT709, _UNSPECIFIED = 1, 2
_HD_WIDTH, _HD_HEIGHT = 1280, 720
DEINTERLACED = "interlaced: its fields are made frames"
TONE_MAPPED = "high dynamic range: tone-mapped to BT.709"
READ_AS_BT709 = "it names no colour matrix and is HD: read as BT.709"


class Treatment:
    """Treats the frames of one film in their order; it may hold one back until the next one comes."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}
        self._deinterlacer: _Filter | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done so far."""
        return tuple(self._notes)

    def apply(self, picture: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame, and return the frames that are ready: as many in all as were taken."""
        if picture.interlaced_frame and self._deinterlacer is None:
            self._notes[DEINTERLACED] = None
            self._deinterlacer = _Filter(picture, "bwdif", _DEINTERLACE)
        if is_untagged_hd(picture):
            self._notes[READ_AS_BT709] = None
            picture.colorspace = _BT709
        if is_high_dynamic_range(picture):
            self._notes[TONE_MAPPED] = None
        if self._deinterlacer is None:
            yield picture
        else:
            yield from self._deinterlacer.apply(picture)

    def flush(self) -> Iterator[VideoFrame]:
        """Return the frames that were held back."""
        if self._deinterlacer is not None:
            yield from self._deinterlacer.apply(None)


def is_untagged_hd(picture: VideoFrame) -> bool:
    """Whether players read the frame by BT.709 although it does not say so."""
    is_hd = picture.width >= _HD_WIDTH or picture.height >= _HD_HEIGHT
    return is_hd and picture.colorspace == _UNSPECIFIED and not picture.format.is_rgb


class _Filter:
    """A filter that gives one frame for each; times are those of the frames that were put in."""

    def __init__(self, template: VideoFrame, name: str, arguments: str) -> None:
        self._times: deque[tuple[int | None, Fraction | None, int]] = deque()
        self._graph = Graph()
        self._graph.threads = 1
        self._source: FilterContext = self._graph.add_buffer(
            width=template.width,
            height=template.height,
            format=template.format,
            time_base=template.time_base,
        )
        self._graph.link_nodes(
            self._source, self._graph.add(name, arguments), self._graph.add("buffersink")
        ).configure()

    def apply(self, picture: VideoFrame | None) -> Iterator[VideoFrame]:
        if picture is not None:
            self._times.append((picture.pts, picture.time_base, picture.duration))
        self._graph.vpush(picture)
        with contextlib.suppress(av.BlockingIOError, av.EOFError):
            while self._times:
                ready = self._graph.vpull()
                ready.pts, ready.time_base, ready.duration = self._times.popleft()
                yield ready
