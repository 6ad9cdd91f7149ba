"""Write a film: one file that plays everywhere, with a chapter per scene and its provenance inside.

The file gets its final name only after it has been verified. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import heapq
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream

from m2d.disk import output_errors
from m2d.enlarging import UpscaleFilter
from m2d.errors import OutputError
from m2d.files import check_writable, copy_to_part, nameless_file, publish
from m2d.video.encode import STREAM_FORMAT, Picture, encode_scene
from m2d.video.muxed_file import MuxedFile, SecondReader
from m2d.video.open_film import FilmError
from m2d.video.packets import EncodedScene, read_packets
from m2d.video.printable import printable
from m2d.video.provenance import Provenance, seal_provenance
from m2d.video.sound import KeptSound, count_packets, sound_packets

LONGEST_TITLE = 200


def write_film(
    path: Path,
    scenes: Sequence[np.ndarray | EncodedScene],
    *,
    fps: float | Fraction,
    upscale: int,
    title: str,
    scene_prompts: Sequence[str],
    provenance: Provenance | None,
    force: bool,
) -> None:
    """Encode, tag, verify and publish a film; on any failure `path` is unchanged.

    Equal arguments give equal bytes (with the same versions of the encoder and PyAV). Every packet is read
    back and compared.

    Args:
        scenes: The shown frames of each scene: uint8 RGB arrays PHWC of one size, or encoded scenes of that
            size; at least one of them newly encoded.
        upscale: Integer factor by which the frames are enlarged, with the filter that the provenance names,
            or by nearest neighbour.
        scene_prompts: One per scene, for the chapters' titles.
        provenance: From `build_provenance` for the same scenes; None leaves it out.

    Raises:
        OutputError: `path` exists or cannot be written, or the written film differs from its scenes.
        InputError: A size or rate that H.264 cannot have.
        ValueError: Scenes, prompts and provenance that do not fit together.
    """
    _check_scenes(scenes, scene_prompts, provenance, upscale=upscale)
    check_writable(path, force=force)
    smooth: UpscaleFilter = "nearest" if provenance is None else provenance.video.upscale_filter
    write_encoded(
        path,
        encode_scenes(scenes, path, fps=fps, upscale=upscale, upscale_filter=smooth),
        fps=fps,
        title=title,
        scene_prompts=scene_prompts,
        provenance=provenance,
        sound=None,
        force=force,
    )


def write_encoded(
    path: Path,
    scenes: Sequence[EncodedScene],
    *,
    fps: float | Fraction,
    title: str,
    scene_prompts: Sequence[str],
    provenance: Provenance | None,
    sound: KeptSound | None,
    force: bool,
) -> None:
    """Write a film of encoded scenes, as `write_film` does.

    Args:
        sound: The film's sound; None for a silent film. Its file may be the one that this film replaces.

    Raises:
        FilmError: The file of the sound cannot be read.
    """
    _check_scenes(scenes, scene_prompts, provenance)
    rate = Fraction(fps).limit_denominator(1001)
    chapters = _chapters([len(scene) for scene in scenes], scene_prompts, fps=rate)
    texts = _Texts(_tags(title, provenance), chapters)
    with publish(path, force=force) as part:
        # The muxer seeks and reads in its file, which `part` does not allow; and a film may be too large for
        # memory.
        with nameless_file(path.parent) as film:
            with output_errors(path):
                num_sounds = _mux(scenes, film, fps=rate, texts=texts, sound=sound)
                film.seek(0)
            copy_to_part(part, film)
        _verify(path, part, scenes, num_sounds=num_sounds)


def encode_scenes(
    scenes: Sequence[np.ndarray | EncodedScene],
    film: Path,
    *,
    fps: float | Fraction,
    upscale: int,
    upscale_filter: UpscaleFilter = "nearest",
) -> list[EncodedScene]:
    """Encode the scenes of a film that are not encoded yet, in parallel: each encoder uses one thread.

    Args:
        film: The film they are for; the encoder's temporary output lies beside it.

    Raises:
        InputError: A size or rate that H.264 cannot have.
        ValueError: Scenes of several sizes, or no frames.
    """
    rate = Fraction(fps).limit_denominator(1001)
    _check_frames([scene for scene in scenes if not isinstance(scene, EncodedScene)])

    def encoded(scene: np.ndarray | EncodedScene, first_frame: int) -> EncodedScene:
        if isinstance(scene, EncodedScene):
            return scene
        height, width = scene.shape[1:3]
        picture = Picture(
            width=width, height=height, upscale=upscale, fps=rate, upscale_filter=upscale_filter
        )
        return encode_scene(scene, picture, film=film, first_frame=first_frame)

    firsts = itertools.accumulate(map(len, scenes), initial=0)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="encode") as pool:
        return list(pool.map(encoded, scenes, firsts))


def _check_frames(scenes: Sequence[np.ndarray]) -> None:
    for index, frames_PHWC in enumerate(scenes):
        if frames_PHWC.dtype != np.uint8 or frames_PHWC.ndim != 4 or frames_PHWC.shape[3] != 3:
            raise ValueError(
                f"scene {index}: {frames_PHWC.dtype} {frames_PHWC.shape}; uint8 PHWC RGB is needed"
            )
        size = scenes[0].shape[1:]
        if frames_PHWC.shape[1:] != size or not len(frames_PHWC):
            raise ValueError(
                f"scene {index}: {frames_PHWC.shape}; at least one frame of size {size} is needed"
            )


def _check_scenes(
    scenes: Sequence[np.ndarray | EncodedScene],
    scene_prompts: Sequence[str],
    provenance: Provenance | None,
    *,
    upscale: int = 1,
) -> None:
    if not scenes or len(scenes) != len(scene_prompts):
        raise ValueError(f"{len(scenes)} scenes with {len(scene_prompts)} prompts; one prompt each is needed")
    if provenance is None:
        return
    lengths = list(provenance.shown_frames)
    if lengths != [len(scene) for scene in scenes]:
        raise ValueError(f"the provenance describes scenes of {lengths} frames, not these")
    for scene in scenes:
        if not isinstance(scene, EncodedScene):
            height, width = (side * upscale for side in scene.shape[1:3])
            provenance.check_film(num_frames=sum(lengths), width=width, height=height)


class _Texts(NamedTuple):
    """The tags and chapters of a film."""

    tags: dict[str, str]
    chapters: list[dict[str, Any]]


def _tags(title: str, provenance: Provenance | None) -> dict[str, str]:
    tags = {"title": printable(title, limit=LONGEST_TITLE)}
    if provenance is None:
        return tags
    text = seal_provenance(provenance)
    # Twice, because programs that copy films drop unknown tags and keep the comment.
    return {**tags, "comment": text, "m2d.recipe": text}


def _chapters(lengths: Sequence[int], scene_prompts: Sequence[str], *, fps: Fraction) -> list[dict[str, Any]]:
    chapters = []
    first_frame = 0
    for number, (length, prompt) in enumerate(zip(lengths, scene_prompts, strict=True), start=1):
        end_frame, title = first_frame + length, printable(prompt, limit=LONGEST_TITLE)
        chapters.append(
            {
                "id": number,
                "start": round(1000 * first_frame / fps),
                "end": round(1000 * end_frame / fps),
                "time_base": Fraction(1, 1000),
                # External video may have no prompt.
                "metadata": {"title": f"{number}. {title}" if title else f"Scene {number}"},
            }
        )
        first_frame = end_frame
    return chapters


def _mux(
    scenes: Sequence[EncodedScene],
    film: IO[bytes],
    *,
    fps: Fraction,
    texts: _Texts,
    sound: KeptSound | None,
) -> dict[int, int]:
    """Write the film; return the number of packets of each sound track.

    Raises:
        OSError: The disk refused.
    """
    template = next((scene.template for scene in scenes if scene.template), b"")
    if not template or any(scene.header != scenes[0].header for scene in scenes):
        raise ValueError("these scenes cannot share a film: none is newly encoded, or their encodings differ")
    options = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
    file = MuxedFile(film)
    # To move the index to the front, the muxer reads the film a second time.
    second = partial(SecondReader, file)
    with (
        file.errors_kept(),
        av.open(io.BytesIO(template), "r", format=STREAM_FORMAT) as source,
        av.open(file, "w", format="mp4", options=options, io_open=lambda *_: second()) as target,
    ):
        target.metadata.update(texts.tags)
        target.set_chapters(texts.chapters)  # type: ignore[arg-type]  # plain dicts of the TypedDict's keys
        pictures = _packets(scenes, target.add_stream_from_template(source.streams.video[0]), fps=fps)
        sounds = iter(()) if sound is None else sound_packets(sound, target)
        num_sounds = dict.fromkeys((stream.index for stream in target.streams.audio), 0)
        # In the order of time, so that a player needs no more of the file than it shows.
        for packet in heapq.merge(pictures, sounds, key=_time_of):
            if packet.stream_index in num_sounds:
                num_sounds[packet.stream_index] += 1
            target.mux(packet)
            file.check()
    return num_sounds


def _packets(
    scenes: Sequence[EncodedScene], stream: VideoStream, *, fps: Fraction
) -> Iterator[av.Packet[Any]]:
    for index, (data, is_key) in enumerate(packet for scene in scenes for packet in scene.packets):
        packet = av.Packet(data)
        # Frames come in their order and evenly: the index is the time.
        packet.pts = packet.dts = index
        packet.duration = 1
        packet.time_base = 1 / fps
        packet.is_keyframe = is_key
        packet.stream = stream
        yield packet


def _time_of(packet: av.Packet[Any]) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _verify(path: Path, part: Path, scenes: Sequence[EncodedScene], *, num_sounds: dict[int, int]) -> None:
    """Compare every packet of the pictures with the given one, and count those of the sound."""
    try:
        header, packets = read_packets(part)
        found_sounds = count_packets(part)
    except FilmError as error:
        raise OutputError(f"{path}: the written file cannot be decoded: {error}; try again") from error
    num_expected = sum(map(len, scenes))
    if len(packets) != num_expected:
        raise OutputError(
            f"{path}: {len(packets)} of {num_expected} frames are in the written file; it was not saved"
        )
    expected = itertools.chain.from_iterable(scene.packets for scene in scenes)
    pairs = enumerate(zip(packets, expected, strict=True))
    changed = next((index for index, (found, given) in pairs if found != given), None)
    if changed is not None or header != scenes[0].header:
        raise OutputError(f"{path}: frame {changed or 0} differs in the written file; the film was not saved")
    if found_sounds != num_sounds:
        raise OutputError(f"{path}: sound is missing in the written file; the film was not saved")
