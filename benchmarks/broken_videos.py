"""Small videos, valid and broken in many ways, for tests and for `benchmarks.rejects`."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Container
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

FPS = 8


def write_video(
    path: Path,
    *,
    num_frames: int = 9,
    fps: int = FPS,
    width: int = 64,
    height: int = 64,
    seed: int = 0,
    times: list[int] | None = None,
) -> Path:
    """Write an MP4 whose frame i has the brightness 20 i, with a little texture."""
    noise = np.random.default_rng(seed).integers(0, 12, (height, width, 3))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        for index in range(num_frames):
            levels = np.clip(noise + index * 20 % 240, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts = index if times is None else times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn_video(path: Path, *, degrees: float) -> Path:
    """Change the display matrix of a written video, as a phone would."""
    data = bytearray(path.read_bytes())
    # A track's header holds the matrix, then width and height; its unit matrix is easily found.
    unit = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = data.index(unit, data.index(b"tkhd"))
    sine, cosine = (round(f(math.radians(degrees)) * (1 << 16)) for f in (math.sin, math.cos))
    data[place : place + len(unit)] = struct.pack(">9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def empty(path: Path, seed: int) -> None:
    del seed
    path.write_bytes(b"")


def truncated(path: Path, seed: int) -> None:
    data = write_video(path, seed=seed).read_bytes()
    path.write_bytes(data[: len(data) * (30 + seed * 13 % 60) // 100])


def one_frame(path: Path, seed: int) -> None:
    write_video(path, num_frames=1, seed=seed)


def audio_only(path: Path, seed: int) -> None:
    del seed
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def variable_rate(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    times = [0]
    for _ in range(39):
        times.append(times[-1] + draw.choice((1, 5)))
    write_video(path, num_frames=40, seed=seed, times=times)


def turned_askew(path: Path, seed: int) -> None:
    turn_video(write_video(path, seed=seed), degrees=20 + seed % 40)


def wrong_ending(path: Path, seed: int) -> None:
    if seed % 2:
        path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    else:
        Image.new("RGB", (64, 64), (200, 30, 30)).save(path, format="PNG")


def mutated(path: Path, seed: int) -> None:
    data = bytearray(write_video(path, seed=seed).read_bytes())
    draw = random.Random(seed)
    start = data.index(b"mdat") + 4
    picture = range(start + (len(data) - start) // 8, len(data) * 3 // 4)
    for place in draw.sample(picture, 40):
        data[place] ^= draw.randrange(1, 256)
    path.write_bytes(data)


KINDS: dict[str, Callable[[Path, int], None]] = {
    "empty": empty,
    "truncated": truncated,
    "one-frame": one_frame,
    "audio-only": audio_only,
    "variable-rate": variable_rate,
    "turned-askew": turned_askew,
    "wrong-ending": wrong_ending,
    "mutated": mutated,
}


def break_videos(videos: list[Path], *, count: int, without: Container[str] = ()) -> dict[Path, str]:
    """Replace `count` of `videos`, spread evenly, by broken ones of all kinds; return the kind of each.

    Args:
        without: Kinds to leave out.
    """
    step = len(videos) / count
    chosen = [videos[int(number * step)] for number in range(count)]
    kinds = [kind for kind in KINDS if kind not in without]
    broken = {video: kinds[number % len(kinds)] for number, video in enumerate(chosen)}
    for number, (video, kind) in enumerate(broken.items()):
        KINDS[kind](video, number)
    return broken
