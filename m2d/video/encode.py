"""Turn frames into H.264 with imageio-ffmpeg's encoder, so that equal frames give equal packets.

Every scene is encoded alone: what it becomes depends on its own frames and on nothing before or after it.
Owns the encoder process and its settings; chapters, tags and the file are the business of `write`. P frames,
H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import IO

import av
import imageio_ffmpeg
import numpy as np

from m2d.errors import M2DError, OutputError
from m2d.video.packet_store import Packet
from m2d.video.packets import EncodedScene
from m2d.video.pixels import expected_luma, sketch_of
from m2d.video.printable import printable

# Flat colours and hard edges show every artefact, and films are small: finer than an eye can tell.
CRF = 12
# Its packets are as an MP4 has them, and it can be written to a stream.
STREAM_FORMAT = "matroska"
# Area sampling keeps the chroma of an upscaled pixel its own; without the accurate flags the picture darkens
# by one level each time it is written and read.
_CONVERSION = (
    "scale=out_color_matrix=bt709:out_range=tv"
    ":flags=area+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact,format=yuv420p,setsar=1"
    ",setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)
# One thread and no B-frames: the same bytes on every machine, and a film that begins at time zero and can be
# taken apart without being encoded again.
_CODEC = ("-c:v", "libx264", "-preset", "medium", "-crf", str(CRF), "-threads", "1", "-bf", "0", "-g", "250")
_EXACT = ("-flags:v", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1")


class EncoderFailed(OutputError):
    """The encoder ended before its work was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """How a film's frames become its picture.

    Attributes:
        width: Width of the frames.
        height: Height of the frames.
        upscale: Integer factor, nearest neighbour.
        fps: Frames per second.
    """

    width: int
    height: int
    upscale: int
    fps: Fraction


def encoding_id() -> str:
    """The identity of how frames are encoded here: settings and encoder. Equal ones may share a film.

    Raises:
        M2DError: There is no encoder.
    """
    _encoder()
    told = [imageio_ffmpeg.get_ffmpeg_version(), _CONVERSION, *_CODEC, *_EXACT, STREAM_FORMAT]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def encode_scene(frames: Iterable[np.ndarray], stream: IO[bytes], picture: Picture) -> EncodedScene:
    """Encode one scene. No text of a user ever reaches the encoder's command line.

    Args:
        frames: uint8 RGB frames HWC, or an array PHWC.
        stream: An empty real file, for what the encoder writes.
        picture: Size and rate.

    Raises:
        EncoderFailed: It did, such as on a full disk.
        M2DError: There is no encoder.
    """
    sketches: list[np.ndarray] = []

    def sketched() -> Iterator[np.ndarray]:
        for frame_HWC in frames:
            sketches.append(sketch_of(expected_luma(frame_HWC)))
            yield frame_HWC

    _run_encoder(stream, _enlarged(sketched(), upscale=picture.upscale), picture)
    stream.seek(0)
    with av.open(stream, "r", format=STREAM_FORMAT) as container:
        video = container.streams.video[0]
        packets = tuple(Packet(bytes(each), each.is_keyframe) for each in container.demux(video) if each.size)
        header = video.codec_context.extradata or b""
    stream.seek(0)
    if len(packets) != len(sketches):
        raise EncoderFailed(f"the encoder made {len(packets)} of {len(sketches)} frames; try again")
    return EncodedScene(
        header=header, packets=packets, template=stream.read(), sketches_PHW=np.stack(sketches)
    )


def _run_encoder(stream: IO[bytes], frames: Iterator[bytes], picture: Picture) -> None:
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            _command(picture),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=complaints,
            # Ctrl-C reaches all of a terminal's process group: whoever started the encoder decides what then.
            process_group=0,
        )
        with process:
            _feed(process, frames)
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


def _enlarged(frames: Iterable[np.ndarray], *, upscale: int) -> Iterator[bytes]:
    for frame_HWC in frames:
        yield frame_HWC.repeat(upscale, axis=0).repeat(upscale, axis=1).tobytes()


def _command(picture: Picture) -> list[str]:
    size = f"{picture.width * picture.upscale}x{picture.height * picture.upscale}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
    return [
        *(_encoder(), "-hide_banner", "-nostdin", "-loglevel", "error"),
        *(*source, "-framerate", str(picture.fps), "-i", "pipe:0", "-an", "-vf", _CONVERSION),
        *(*_CODEC, *_EXACT, "-f", STREAM_FORMAT, "pipe:1"),
    ]


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
