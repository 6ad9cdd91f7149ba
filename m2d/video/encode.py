"""Encode frames as H.264 with imageio-ffmpeg's encoder, so that equal frames give equal packets.

Every scene is encoded alone: its packets depend on its own frames only. Owns the encoder process and its
settings; `write` adds chapters and tags and writes the file. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Self

import av
import imageio_ffmpeg
import numpy as np
from PIL import Image

from m2d.disk import output_errors
from m2d.enlarging import UpscaleFilter
from m2d.errors import InputError, M2DError, OutputError, OutputRefused
from m2d.files import nameless_file
from m2d.fit import FilmFit
from m2d.limits import FASTEST_FPS, LARGEST_SIDE
from m2d.video.packets import EncodedScene, Packet, PacketStore
from m2d.video.pixels import expected_luma, luma_of, sampled, sketch_of
from m2d.video.printable import printable

# Flat colours and hard edges show every artefact and films are small: visually lossless.
CRF = 12
# Mean luma error of a frame in levels of 255. Pure noise at the encoder's setting reaches 2; a black, missing
# or exchanged frame is far beyond.
BRIGHTNESS_TOLERANCE = 5.0
# Its packets have the form of MP4's, and it can be written to a pipe.
STREAM_FORMAT = "matroska"
# Area sampling keeps the chroma of an upscaled pixel its own; without the accurate flags the picture darkens
# by one level each time it is written and read.
_CONVERSION = (
    "scale=out_color_matrix=bt709:out_range=tv"
    ":flags=area+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact,format=yuv420p,setsar=1"
    ",setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)
# One thread and no B-frames: the same bytes on every machine, a film that begins at time zero, and packets
# that can be copied from film to film.
KEY_FRAME_DISTANCE = 250
_CODEC = (
    *("-c:v", "libx264", "-preset", "medium", "-crf", str(CRF)),
    *("-threads", "1", "-bf", "0", "-g", str(KEY_FRAME_DISTANCE)),
)
_EXACT = ("-flags:v", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1")


class EncoderFailed(OutputRefused):
    """The encoder ended before it had encoded all frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Size and rate at which frames are encoded.

    Attributes:
        upscale: Integer factor by which they are enlarged.
        pixel_aspect: Width of a pixel over its height.

    Raises:
        InputError: A size or rate that H.264 cannot have.
    """

    width: int
    height: int
    upscale: int
    fps: Fraction
    upscale_filter: UpscaleFilter = "nearest"
    pixel_aspect: Fraction = Fraction(1)

    @classmethod
    def of_film(cls, fit: FilmFit) -> Self:
        """Return the picture of a film of its own size and rate."""
        return cls(width=fit.width, height=fit.height, upscale=1, fps=fit.fps, pixel_aspect=fit.pixel_aspect)

    def __post_init__(self) -> None:
        width, height = self.width * self.upscale, self.height * self.upscale
        if self.upscale < 1 or height % 2 or width % 2 or max(height, width) > LARGEST_SIDE:
            raise InputError(
                f"video.upscale: {self.upscale} makes {self.width}x{self.height} frames {width}x{height};"
                f" both must be even and at most {LARGEST_SIDE}: use"
                f" {'an even' if self.upscale % 2 else 'a smaller'} factor"
            )
        if not 0 < self.fps <= FASTEST_FPS:
            raise InputError(
                f"video.fps: {self.fps} frames per second; more than 0 and at most {FASTEST_FPS} are allowed"
            )


def encoding_id() -> str:
    """Return the identity of encoder and settings; only scenes of equal identity may share a film.

    Raises:
        M2DError: There is no encoder.
    """
    settings = [encoder_version(), _CONVERSION, *_CODEC, *_EXACT, STREAM_FORMAT]
    return hashlib.sha256("\0".join(settings).encode()).hexdigest()


def encoder_version() -> str:
    """Return the version that the encoder reports.

    Raises:
        M2DError: There is no encoder, or it does not run.
    """
    encoder = _encoder()
    try:
        return str(imageio_ffmpeg.get_ffmpeg_version())
    # The library reads the version from the program's output.
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise M2DError(f"the video encoder {encoder} does not run; install imageio-ffmpeg again") from error


def encode_scene(
    frames: Iterable[np.ndarray], picture: Picture, *, film: Path, first_frame: int = 0
) -> EncodedScene:
    """Encode one scene, decode it again and compare its frames with the given ones.

    The user's text never reaches the encoder's command line.

    Args:
        frames: uint8 RGB frames HWC, or an array PHWC.
        film: The film it is for; the encoder's temporary output lies beside it.
        first_frame: Number of its first frame in the film, for messages.

    Raises:
        EncoderFailed: The encoder failed, such as on a full disk.
        OutputError: The packets do not show the given frames.
    """
    sketches: list[np.ndarray] = []

    with nameless_file(film.parent) as stream:
        _run_encoder(stream, _enlarged(frames, picture, sketches), picture)
        stream.seek(0)
        with av.open(stream, "r", format=STREAM_FORMAT) as container:
            video = container.streams.video[0]
            packets = tuple(
                Packet(bytes(each), each.is_keyframe) for each in container.demux(video) if each.size
            )
            header = video.codec_context.extradata or b""
        stream.seek(0)
        template = stream.read()
    if len(packets) != len(sketches):
        raise EncoderFailed(f"the encoder made {len(packets)} of {len(sketches)} frames; try again")
    scene = EncodedScene(header=header, packets=packets, template=template)
    try:
        _check_pictures(film, scene, sketches, first_frame=first_frame, upscale=picture.upscale)
    except av.FFmpegError as error:
        raise OutputError(f"{film}: the encoded frames cannot be decoded: {error}; try again") from error
    return scene


def encode_long_scene(
    frames: Iterator[np.ndarray], *, num_frames: int, store: PacketStore, film: Path, picture: Picture
) -> EncodedScene:
    """Encode a scene too long for memory, piece by piece; its packets stay on disk, and it has no template.

    Args:
        frames: Its frames; the first `num_frames` are taken.
        num_frames: At least one.

    Raises:
        OutputError: As `encode_scene`, or the disk is full.
    """
    first, header = len(store), b""
    for begin in range(0, num_frames, KEY_FRAME_DISTANCE):
        taken = itertools.islice(frames, min(KEY_FRAME_DISTANCE, num_frames - begin))
        piece = encode_scene(taken, picture, film=film, first_frame=begin)
        with output_errors(film):
            for packet in piece.packets:
                store.append(packet)
        header = piece.header
    return EncodedScene(header=header, packets=store[first:])


def _check_pictures(
    film: Path, scene: EncodedScene, sketches: Sequence[np.ndarray], *, first_frame: int, upscale: int
) -> None:
    num_decoded = 0
    for picture, sketch_HW in zip(scene.pictures(), sketches, strict=False):
        found_HW = sketch_of(sampled(luma_of(picture), upscale=upscale))
        error = float(np.abs(found_HW - sketch_HW).mean()) if found_HW.shape == sketch_HW.shape else 255.0
        if error > BRIGHTNESS_TOLERANCE:
            raise OutputError(
                f"{film}: frame {first_frame + num_decoded} differs by {error:.0f} levels of 255 after"
                " encoding; the film was not saved"
            )
        num_decoded += 1
    if num_decoded != len(sketches):
        raise OutputError(
            f"{film}: {num_decoded} of {len(sketches)} frames of a scene decode; the film was not saved"
        )


def _run_encoder(stream: IO[bytes], frames: Iterator[bytes], picture: Picture) -> None:
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            _command(picture),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stderr,
            # In a process group of its own, so that Ctrl-C in a terminal does not end the encoder.
            process_group=0,
        )
        with process:
            _feed(process, frames)
        if process.returncode != 0:
            stderr.seek(0)
            raise EncoderFailed(
                f"the encoder failed with exit code {process.returncode}: {_last_line(stderr)}"
            )


def _feed(process: subprocess.Popen[bytes], frames: Iterator[bytes]) -> None:
    assert process.stdin is not None
    try:
        for frame in frames:
            process.stdin.write(frame)
        process.stdin.close()
    except BrokenPipeError:
        # The encoder ended early; its exit code and message give the reason.
        return
    except BaseException:
        process.kill()
        raise
    finally:
        # Closing writes the rest of the buffer, which fails once the encoder has ended.
        with suppress(BrokenPipeError):
            process.stdin.close()


def _enlarged(frames: Iterable[np.ndarray], picture: Picture, sketches: list[np.ndarray]) -> Iterator[bytes]:
    """Yield the frames at the size of the film, and add a sketch of each to `sketches`."""
    for frame_HWC in frames:
        large_HWC = _large(frame_HWC, picture)
        sketches.append(sketch_of(expected_luma(sampled(large_HWC, upscale=picture.upscale))))
        yield large_HWC.tobytes()


def _large(frame_HWC: np.ndarray, picture: Picture) -> np.ndarray:
    factor = picture.upscale
    if factor == 1 or picture.upscale_filter == "nearest":
        return frame_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (picture.width * factor, picture.height * factor)
    return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.LANCZOS))


def _command(picture: Picture) -> list[str]:
    size = f"{picture.width * picture.upscale}x{picture.height * picture.upscale}"
    aspect = f"setsar={picture.pixel_aspect.numerator}/{picture.pixel_aspect.denominator}"
    conversion = _CONVERSION if picture.pixel_aspect == 1 else _CONVERSION.replace("setsar=1", aspect)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
    return [
        *(_encoder(), "-hide_banner", "-nostdin", "-loglevel", "error"),
        *(*source, "-framerate", str(picture.fps), "-i", "pipe:0", "-an", "-vf", conversion),
        *(*_CODEC, *_EXACT, "-f", STREAM_FORMAT, "pipe:1"),
    ]


def _encoder() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise M2DError("no video encoder found; install imageio-ffmpeg again") from error


def _last_line(stderr: IO[bytes]) -> str:
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return "it gave no reason"
    # Remove the name and address of the encoder's component.
    return printable(re.sub(r"^(\[[^\]]*\] )+", "", lines[-1]), limit=300)
