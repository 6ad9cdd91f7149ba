"""Turn frames into an H.264 stream with imageio-ffmpeg's encoder, so that equal frames give equal bytes.

Owns the encoder process and its settings; chapters, tags and the file are the business of `write`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import IO

import imageio_ffmpeg
import numpy as np

from m2d.errors import M2DError, OutputError
from m2d.video.printable import printable

# Flat colours and hard edges show every artefact, and films are small: finer than an eye can tell.
CRF = 12
STREAM_FORMAT = "nut"
# Area sampling keeps the chroma of an upscaled pixel its own; without the accurate flags the picture darkens
# by one level each time it is written and read.
_CONVERSION = (
    "scale=out_color_matrix=bt709:out_range=tv"
    ":flags=area+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact,format=yuv420p,setsar=1"
    ",setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)


class EncoderFailed(OutputError):
    """The encoder ended before its work was done."""


def encode_scenes(scenes: Sequence[np.ndarray], stream: IO[bytes], *, fps: Fraction, upscale: int) -> None:
    """Write all scenes, one after the other, to `stream` as H.264 in a NUT container.

    Every scene begins with a key frame. No text of a user ever reaches the encoder's command line.

    Args:
        scenes: uint8 RGB arrays PHWC of one size.
        stream: A real file; it receives the bytes from its current position on.
        fps: Frames per second.
        upscale: Integer factor, nearest neighbour.

    Raises:
        EncoderFailed: It did, such as on a full disk.
        M2DError: There is no encoder.
    """
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            _command(scenes, fps=fps, upscale=upscale),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=complaints,
            # Ctrl-C reaches all of a terminal's process group: whoever started the encoder decides what then.
            process_group=0,
        )
        with process:
            _feed(process, _enlarged(scenes, upscale=upscale))
        if process.returncode != 0:
            complaints.seek(0)
            raise EncoderFailed(
                f"the encoder failed with exit code {process.returncode}: {_last_line(complaints)}"
            )


def _feed(process: subprocess.Popen[bytes], frames: Iterator[bytes]) -> None:
    assert process.stdin is not None
    try:
        for frame in frames:
            process.stdin.write(frame)
        process.stdin.close()
    except BrokenPipeError:
        # The encoder has ended early; its exit code and message say why.
        return
    except BaseException:
        process.kill()
        raise
    finally:
        # What is left in the buffer goes nowhere once the encoder has ended, and closing tries to write it.
        with suppress(BrokenPipeError):
            process.stdin.close()


def _enlarged(scenes: Sequence[np.ndarray], *, upscale: int) -> Iterator[bytes]:
    for frames_PHWC in scenes:
        for frame_HWC in frames_PHWC:
            yield frame_HWC.repeat(upscale, axis=0).repeat(upscale, axis=1).tobytes()


def _command(scenes: Sequence[np.ndarray], *, fps: Fraction, upscale: int) -> list[str]:
    height, width = scenes[0].shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width * upscale}x{height * upscale}"]
    codec = ["-c:v", "libx264", "-preset", "medium", "-crf", str(CRF)]
    # One thread and no B-frames: the same bytes on every machine, and a film that begins at time zero.
    codec += ["-threads", "1", "-bf", "0", "-g", "250", "-force_key_frames", _scene_starts(scenes, fps=fps)]
    exact = ["-flags:v", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1"]
    return [
        *(_encoder(), "-hide_banner", "-nostdin", "-loglevel", "error"),
        *(*source, "-framerate", str(fps), "-i", "pipe:0", "-an", "-vf", _CONVERSION),
        *(*codec, *exact, "-f", STREAM_FORMAT, "pipe:1"),
    ]


def _scene_starts(scenes: Sequence[np.ndarray], *, fps: Fraction) -> str:
    first_frame, starts_s = 0, []
    for frames_PHWC in scenes:
        # Half a frame early, lest rounding makes the key frame come one late.
        starts_s.append(f"{max((first_frame - 0.5) / fps, 0):.6f}")
        first_frame += len(frames_PHWC)
    return ",".join(starts_s)


def _encoder() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise M2DError("no video encoder found; install imageio-ffmpeg again") from error


def _last_line(complaints: IO[bytes]) -> str:
    lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return "it did not say why"
    # Without the name and address of the encoder's part that speaks.
    return printable(re.sub(r"^(\[[^\]]*\] )+", "", lines[-1]), limit=300)
