"""Write a stretch of another video as a file of its own, without its sound.

Pictures become upright, have even sides and keep their times. Owns the encoder's settings; equal pictures
give equal bytes with the same versions of the encoder and PyAV.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from m2d.video.crop_resize import Turn, turn_of
from m2d.video.film_frames import FilmFrame
from m2d.video.pixels import display_matrix, rgb_of
from m2d.video.tone_mapping import is_high_dynamic_range

ENCODER = {"preset": "veryfast", "threads": "1", "g": "48"}
_TIME_BASE = Fraction(1, 90000)


class ClipWriter:
    """An MP4 file with H.264 that grows picture by picture.

    Args:
        part: The file to write.
        width, height: Size of the upright pictures in square pixels; odd sides lose a pixel.
        fps: Rate to announce.
        crf: Quality of H.264, from 0, which is without loss, to 51.

    Attributes:
        width, height: Size of the file's pictures.
        num_frames: How many pictures were added.
    """

    def __init__(self, part: Path, *, width: int, height: int, fps: float, crf: int) -> None:
        self.width, self.height = width // 2 * 2, height // 2 * 2
        self.num_frames = 0
        self._first_s = 0.0
        self._container = av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"})
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options=ENCODER | {"crf": str(crf)})
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE
        self._stream.width, self._stream.height = self.width, self.height

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def add(self, time_s: float, frame: FilmFrame) -> None:
        """Encode a frame; `time_s` counts from any moment, and the first frame begins the clip."""
        picture = self._picture(frame)
        if not self.num_frames:
            self._first_s = time_s
            self._tag(picture)
        picture.pts, picture.time_base = round((time_s - self._first_s) / _TIME_BASE), _TIME_BASE
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def _picture(self, frame: FilmFrame) -> av.VideoFrame:
        source, turn = frame.picture, turn_of(display_matrix(frame.picture)) or Turn()
        if turn != Turn() or is_high_dynamic_range(source):
            upright_HWC = np.ascontiguousarray(turn.apply(rgb_of(source, upscale=1)))
            source = av.VideoFrame.from_ndarray(upright_HWC, format="rgb24")
        is_rgb = source.format.is_rgb
        picture = source.reformat(
            width=self.width,
            height=self.height,
            format="yuv420p",
            interpolation="AREA",
            dst_colorspace=Colorspace.ITU709 if is_rgb else None,
            dst_color_range=ColorRange.MPEG if is_rgb else None,
        )
        # The source's kind of picture would be forced on the encoder.
        picture.pict_type = 0
        return picture

    def _tag(self, picture: av.VideoFrame) -> None:
        """Name the colours as the first picture does: without, players guess by the size."""
        context = self._stream.codec_context
        context.colorspace, context.color_range = picture.colorspace, picture.color_range
        context.color_primaries, context.color_trc = picture.color_primaries, picture.color_trc
