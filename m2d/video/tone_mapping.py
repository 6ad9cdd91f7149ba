"""High dynamic range (PQ, HLG) as the plain range that models see.

FFmpeg's zscale and tonemap map a cube of colours once; its haldclut filter looks up every frame's colours in
it, because PyAV's own FFmpeg has no zscale.
"""

from __future__ import annotations

import functools
import struct
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.sidedata.sidedata import SideData
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from m2d.video.open_film import FilmError

# Transfer curves of ITU-T H.273: SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG).
_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
# A cube of 64 colours a side as a picture.
_LEVEL, _SIDE = 8, 512
# Brightness of paper white, and of the brightest point of a film that does not say, in candela per m2.
_WHITE, _USUAL_PEAK = 100, 1000
_LIGHT_LEVEL = struct.Struct("=II")
_TIME_LIMIT_S = 60


class ToneMappingError(FilmError):
    """A film of high dynamic range on a machine whose FFmpeg cannot map it."""


def is_high_dynamic_range(frame: VideoFrame) -> bool:
    """Whether the frame's levels follow PQ or HLG, which look pale when read as plain levels."""
    return frame.color_trc in _TRANSFERS


def tone_mapped(frame: VideoFrame) -> VideoFrame:
    """Return a frame of high dynamic range in BT.709 colours, RGB.

    Raises:
        ToneMappingError: The installed FFmpeg has no zscale or tonemap.
    """
    mapper = _mapper(frame.width, frame.height, frame.format.name, frame.color_trc, _peak(frame))
    return mapper.apply(frame)


def _peak(frame: VideoFrame) -> int:
    """Brightest point of the film, in candela per square metre."""
    data = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    levels = bytes(data) if isinstance(data, SideData) else b""
    brightest = _LIGHT_LEVEL.unpack(levels)[0] if len(levels) == _LIGHT_LEVEL.size else 0
    return min(brightest, 10_000) if brightest > _WHITE else _USUAL_PEAK


@functools.lru_cache(maxsize=4)
def _cube(transfer: int, peak: int) -> bytes:
    """Return the mapped colours of all inputs, 16-bit RGB, as FFmpeg's haldclut filter takes them."""
    filters = (
        f"haldclutsrc=level={_LEVEL},format=gbrp16le,"
        f"setparams=range=full:color_primaries=bt2020:color_trc={_TRANSFERS[transfer]}:colorspace=gbr,"
        f"zscale=transfer=linear:npl={_WHITE},format=gbrpf32le,zscale=primaries=bt709,"
        f"tonemap=hable:desat=0:peak={peak / _WHITE:g},zscale=transfer=bt709:range=full,format=rgb48le"
    )
    output = ("-frames:v", "1", "-f", "rawvideo", "pipe:1")
    command = (
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        filters,
    )
    try:
        done = subprocess.run((*command, *output), capture_output=True, timeout=_TIME_LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToneMappingError(f"FFmpeg, which maps high dynamic range, does not run: {error}") from error
    if len(done.stdout) != _SIDE * _SIDE * 6:
        reason = done.stderr.decode("ascii", "replace").strip().splitlines()[-1:] or ["no picture"]
        raise ToneMappingError(
            f"high dynamic range cannot be mapped: FFmpeg's zscale or tonemap fails ({reason[0][:200]});"
            " convert the film to BT.709 first"
        )
    return done.stdout


@functools.lru_cache(maxsize=4)
def _mapper(width: int, height: int, pixel_format: str, transfer: int, peak: int) -> _Mapper:
    return _Mapper(width, height, pixel_format, _cube(transfer, peak))


class _Mapper:
    """Looks up the colours of frames of one size and format in a cube."""

    def __init__(self, width: int, height: int, pixel_format: str, cube: bytes) -> None:
        self._graph = Graph()
        self._graph.threads = 1
        self._count = 0
        tick = Fraction(1, 1000)
        colours = VideoFrame.from_ndarray(
            np.frombuffer(cube, np.uint16).reshape(_SIDE, _SIDE, 3), format="rgb48le"
        )
        colours.pts, colours.time_base = 0, tick
        self._frames: FilterContext = self._graph.add_buffer(
            width=width, height=height, format=VideoFormat(pixel_format), time_base=tick
        )
        cube_source = self._graph.add_buffer(width=_SIDE, height=_SIDE, format=colours.format, time_base=tick)
        rgb = self._graph.add("scale", "in_color_matrix=bt2020:out_range=pc:flags=bicubic+accurate_rnd")
        planes = self._graph.add("format", "rgb48le")
        cube_planes = self._graph.add("format", "rgb48le")
        lookup = self._graph.add("haldclut", "clut=first")
        self._graph.link_nodes(self._frames, rgb, planes)
        self._graph.link_nodes(cube_source, cube_planes)
        planes.link_to(lookup, 0, 0)
        cube_planes.link_to(lookup, 0, 1)
        self._graph.link_nodes(lookup, self._graph.add("format", "rgb24"), self._graph.add("buffersink"))
        self._graph.configure()
        cube_source.push(colours)
        cube_source.push(None)

    def apply(self, frame: VideoFrame) -> VideoFrame:
        """Map one frame."""
        times = frame.pts, frame.time_base
        self._count += 1
        frame.pts, frame.time_base = self._count, Fraction(1, 1000)
        try:
            self._frames.push(frame)
        finally:
            frame.pts, frame.time_base = times
        mapped = self._graph.vpull()
        mapped.pts, mapped.time_base = times
        return mapped
