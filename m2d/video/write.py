"""Write a film: one file that plays everywhere, with a chapter per scene and its provenance inside.

Owns the way from frames to a verified file under its final name. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer

from m2d.errors import InputError, OutputError
from m2d.files import nameless_file, publish, write_part
from m2d.video.encode import STREAM_FORMAT, encode_scenes
from m2d.video.pixels import expected_luma, luma_of, sampled
from m2d.video.printable import printable
from m2d.video.provenance import Provenance, seal_provenance

LONGEST_TITLE = 200
LARGEST_SIDE = 8192
FASTEST_FPS = 240
# Mean error of a frame's brightness in levels of 255. Pure noise at the encoder's setting reaches 2; a frame
# that is black, missing or another one is far beyond.
BRIGHTNESS_TOLERANCE = 5.0


def write_film(
    path: Path,
    scenes: Sequence[np.ndarray],
    *,
    fps: float | Fraction,
    upscale: int,
    title: str,
    scene_prompts: Sequence[str],
    provenance: Provenance | None,
    force: bool,
) -> None:
    """Encode, tag, verify and publish a film; on any failure `path` is left as it was.

    Equal arguments give equal bytes (with the same versions of the encoder and PyAV).

    Args:
        path: The film's final name.
        scenes: What is shown of each scene, uint8 RGB arrays PHWC, all of one size.
        fps: Frames per second.
        upscale: Integer factor, nearest neighbour: the written picture is this much larger than the frames.
        title: The film's title tag.
        scene_prompts: One per scene: the chapters' titles.
        provenance: What `build_provenance` made of the same scenes; None leaves it out.
        force: Whether an existing file is replaced.

    Raises:
        OutputError: `path` exists or cannot be written, or what was written is not what was given.
        InputError: A size or rate that H.264 cannot have.
        ValueError: Scenes, prompts and provenance that do not fit together.
    """
    rate = Fraction(fps).limit_denominator(1001)
    _check_scenes(scenes, scene_prompts=scene_prompts, upscale=upscale, fps=rate)
    if provenance is not None:
        _check_provenance(provenance, scenes, upscale=upscale)
    tags = _tags(title, provenance)
    chapters = _chapters(scenes, scene_prompts, fps=rate)
    with publish(path, force=force) as part:
        with nameless_file(path.parent) as stream:
            encode_scenes(scenes, stream, fps=rate, upscale=upscale)
            stream.seek(0)
            film = _muxed(stream, fps=rate, tags=tags, chapters=chapters)
        write_part(part, film)
        _verify(path, part, scenes, upscale=upscale)


def _check_scenes(
    scenes: Sequence[np.ndarray], *, scene_prompts: Sequence[str], upscale: int, fps: Fraction
) -> None:
    if not scenes or len(scenes) != len(scene_prompts):
        raise ValueError(f"{len(scenes)} scenes with {len(scene_prompts)} prompts; one prompt each is needed")
    size = scenes[0].shape[1:]
    for index, frames_PHWC in enumerate(scenes):
        if frames_PHWC.dtype != np.uint8 or frames_PHWC.ndim != 4 or frames_PHWC.shape[3] != 3:
            raise ValueError(
                f"scene {index}: {frames_PHWC.dtype} {frames_PHWC.shape}; uint8 PHWC RGB is needed"
            )
        if frames_PHWC.shape[1:] != size or not len(frames_PHWC):
            raise ValueError(
                f"scene {index}: {frames_PHWC.shape}; at least one frame of size {size} is needed"
            )
    height, width = size[0] * upscale, size[1] * upscale
    if upscale < 1 or height % 2 or width % 2 or max(height, width) > LARGEST_SIDE:
        raise InputError(
            f"video.upscale: {upscale} makes {size[1]}x{size[0]} frames {width}x{height}; both must be even"
            f" and at most {LARGEST_SIDE}: use {'an even' if upscale % 2 else 'a smaller'} factor"
        )
    if not 0 < fps <= FASTEST_FPS:
        raise InputError(
            f"video.fps: {fps} frames per second; more than 0 and at most {FASTEST_FPS} are allowed"
        )


def _check_provenance(provenance: Provenance, scenes: Sequence[np.ndarray], *, upscale: int) -> None:
    told = list(provenance.shown_frames)
    if told != [len(frames_PHWC) for frames_PHWC in scenes]:
        raise ValueError(f"the provenance tells of scenes of {told} frames, these are others")
    height, width = scenes[0].shape[1:3]
    provenance.check_film(num_frames=sum(told), width=width * upscale, height=height * upscale)


def _tags(title: str, provenance: Provenance | None) -> dict[str, str]:
    tags = {"title": printable(title, limit=LONGEST_TITLE)}
    if provenance is None:
        return tags
    text = seal_provenance(provenance)
    # Twice, because programs that copy films drop unknown tags and keep the comment.
    return {**tags, "comment": text, "m2d.recipe": text}


def _chapters(
    scenes: Sequence[np.ndarray], scene_prompts: Sequence[str], *, fps: Fraction
) -> list[dict[str, Any]]:
    chapters = []
    first_frame = 0
    for number, (frames_PHWC, prompt) in enumerate(zip(scenes, scene_prompts, strict=True), start=1):
        end_frame = first_frame + len(frames_PHWC)
        chapters.append(
            {
                "id": number,
                "start": round(1000 * first_frame / fps),
                "end": round(1000 * end_frame / fps),
                "time_base": Fraction(1, 1000),
                "metadata": {"title": f"{number}. {printable(prompt, limit=LONGEST_TITLE)}"},
            }
        )
        first_frame = end_frame
    return chapters


def _muxed(
    stream: IO[bytes], *, fps: Fraction, tags: dict[str, str], chapters: list[dict[str, Any]]
) -> bytes:
    film = io.BytesIO()
    options = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
    # To move the index to the front, the muxer reads the film a second time.
    with (
        av.open(stream, "r", format=STREAM_FORMAT) as source,
        av.open(
            film, "w", format="mp4", options=options, io_open=lambda *_: io.BytesIO(film.getvalue())
        ) as target,
    ):
        target.metadata.update(tags)
        target.set_chapters(chapters)  # type: ignore[arg-type]  # plain dicts of the TypedDict's keys
        _copy_packets(source, target, fps=fps)
    return film.getvalue()


def _copy_packets(source: InputContainer, target: OutputContainer, *, fps: Fraction) -> None:
    video = source.streams.video[0]
    copy = target.add_stream_from_template(video)
    for index, packet in enumerate(packet for packet in source.demux(video) if packet.size):
        # Frames come in their order and evenly: the index is the time, free of the stream's rounding.
        packet.pts = packet.dts = index
        packet.duration = 1
        packet.time_base = 1 / fps
        packet.stream = copy
        target.mux(packet)


def _verify(path: Path, part: Path, scenes: Sequence[np.ndarray], *, upscale: int) -> None:
    expected = [frame_HWC for frames_PHWC in scenes for frame_HWC in frames_PHWC]
    num_decoded = 0
    try:
        for luma_HW in _decoded_luma(part):
            if num_decoded < len(expected):
                _compare(path, luma_HW, expected[num_decoded], index=num_decoded, upscale=upscale)
            num_decoded += 1
    except av.FFmpegError as error:
        raise OutputError(
            f"{path}: what was written cannot be decoded: {error.strerror}; try again"
        ) from error
    if num_decoded != len(expected):
        raise OutputError(
            f"{path}: {num_decoded} of {len(expected)} frames arrived in the file; nothing was kept"
        )


def _decoded_luma(part: Path) -> Iterator[np.ndarray]:
    with av.open(str(part.absolute()), format="mp4", options={"protocol_whitelist": "file"}) as container:
        for frame in container.decode(video=0):
            yield luma_of(frame)


def _compare(path: Path, luma_HW: np.ndarray, frame_HWC: np.ndarray, *, index: int, upscale: int) -> None:
    found_HW, wanted_HW = sampled(luma_HW, upscale=upscale), expected_luma(frame_HWC)
    error = float(np.abs(found_HW - wanted_HW).mean()) if found_HW.shape == wanted_HW.shape else 255.0
    if error > BRIGHTNESS_TOLERANCE:
        raise OutputError(
            f"{path}: frame {index} arrived changed in the file, by {error:.0f} levels of 255; not kept"
        )
