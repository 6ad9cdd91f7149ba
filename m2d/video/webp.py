"""Animated WebP, which FFmpeg does not read: decoded by Pillow into a lossless film in memory.

Owns the limits of that film; `open_film` reads it like any other.
"""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from m2d.limits import animation_problem, picture_problem
from m2d.reading import open_regular

# Pixels of all frames together: a minute at the size of web pages. Noise takes 3 bytes a pixel in memory.
MOST_PIXELS = 1 << 28
_TICK = Fraction(1, 1000)


def is_webp(path: Path) -> bool:
    """Whether the file begins like a WebP picture or animation."""
    with open_regular(path, limit_bytes=None) as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def webp_film(path: Path) -> io.BytesIO:
    """Return the animation as a Matroska file of lossless frames, each shown as long as the file says.

    Raises:
        ValueError: It is no animation, or has too many pixels.
        OSError: It cannot be read, or is cut off.
    """
    found = path.stat()
    return io.BytesIO(_converted(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)))


# A command opens a film several times, for its header, its cuts and its frames.
@lru_cache(maxsize=1)
def _converted(path: Path, identity: tuple[int, ...]) -> bytes:
    """Convert the animation; `identity` changes when the file does, and makes the cache forget it."""
    del identity
    try:
        # Pillow takes no other format for it, whatever the file is by now.
        with (
            open_regular(path, limit_bytes=None) as file,
            Image.open(file, formats=["WEBP"]) as animation,
        ):
            return _film(animation, size_bytes=path.stat().st_size).getvalue()
    except (EOFError, RuntimeError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or "it is corrupt") from error


def _film(animation: Image.Image, *, size_bytes: int) -> io.BytesIO:
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as container:
        num_frames, (width, height) = getattr(animation, "n_frames", 1), animation.size
        if num_frames < 2:
            raise ValueError("a still picture, not an animation")
        problem = picture_problem(width, height, is_animation=True) or animation_problem(
            size_bytes=size_bytes, num_frames=num_frames, width=width, height=height
        )
        if problem:
            raise ValueError(problem)
        if num_frames * width * height > MOST_PIXELS:
            raise ValueError(f"{num_frames} frames of {width}x{height} pixels are too many for WebP")
        animation.load()
        # FFV1 takes 70 bytes of memory for a pixel.
        stream = container.add_stream("libx264rgb", rate=Fraction(1000, _duration_ms(animation)))
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        stream.options = {"qp": "0", "preset": "ultrafast", "tune": "zerolatency"}
        stream.codec_context.thread_count = 1
        stream.time_base = stream.codec_context.time_base = _TICK
        start_ms = 0
        for number in range(num_frames):
            animation.seek(number)
            picture_HWC = np.asarray(_on_white(animation))
            duration_ms = _duration_ms(animation)
            frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")
            frame.pts, frame.time_base = start_ms, _TICK
            for packet in stream.encode(frame):
                packet.duration = duration_ms
                container.mux(packet)
            start_ms += duration_ms
        container.mux(stream.encode())
    film.seek(0)
    return film


def _duration_ms(picture: Image.Image) -> int:
    return max(round(float(picture.info.get("duration", 0))), 1)


def _on_white(picture: Image.Image) -> Image.Image:
    """Return the picture as a page shows it where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture.convert("RGBA"))
    return page.convert("RGB")
