"""Small videos as other programs make them, written at test time."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np


def ffmpeg(*arguments: str | Path | int) -> None:
    """Run FFmpeg on one thread."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin", "-threads", "1"]
    subprocess.run([*command, *map(str, arguments)], check=True)


def pattern(path: Path, *arguments: str | int, num_frames: int = 25, size: str = "64x48") -> Path:
    """Write moving test bars at 25 frames per second."""
    source = f"testsrc=size={size}:rate=25"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", num_frames, "-pix_fmt", "yuv420p", *arguments, path)
    return path


def timed(path: Path, times_s: Sequence[float], *, end_s: float, codec: str = "libx264") -> Path:
    """Write grey frames that are shown at the given times, the last one up to `end_s`."""
    tick = Fraction(1, 1000)
    starts = [round(1000 * time_s) for time_s in times_s]
    durations = dict(zip(starts, np.diff([*starts, round(1000 * end_s)]).tolist(), strict=True))
    options = {"bf": "0", "threads": "1"} if codec == "libx264" else {}
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        packets = []
        for number, start in enumerate(starts):
            level = 10 + 5 * (number % 40)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = start, tick
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()]:
            assert packet.pts is not None
            packet.duration = durations[round(1000 * float(packet.pts * packet.time_base))]
            container.mux(packet)
    return path


def retagged(source: Path, target: Path, tags: Mapping[str, str]) -> Path:
    """Write a film's packets with these tags; other names than a container's own are kept."""
    with av.open(source) as old, av.open(target, "w", options={"movflags": "use_metadata_tags"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        new.metadata.update(tags)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target
