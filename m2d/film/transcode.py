"""Transcode scenes of another film frame by frame, so that the output can copy their packets.

Memory does not grow with the length of the film. H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.pipeline.observer import never_stop
from m2d.progress import Clock, StageProgress
from m2d.video.digests import FramesDigest, array_digest
from m2d.video.encode import Picture, encode_long_scene
from m2d.video.external import ResampledVideo
from m2d.video.joining import colour_jump
from m2d.video.packets import PacketStore
from m2d.video.provenance import SceneRecord


def transcode_scenes(
    film: LoadedFilm,
    scratch: IO[bytes],
    *,
    output: Path,
    clock: Clock,
    check_stop: Callable[[], None] = never_stop,
) -> LoadedFilm:
    """Encode the scenes of `film.to_transcode`, so that the returned film has packets and records of them.

    Args:
        film: The film that the run starts from.
        scratch: File for the packets; the result reads from it.
        output: The new film; temporary files go beside it.
        clock: Receives the stage.
        check_stop: Called between frames; it raises to end the run there.

    Raises:
        FilmError: The file changed after it was loaded.
        OutputError: The encoder failed, or the disk refused.
    """
    video = film.to_transcode
    if video is None:
        return film
    picture = _picture_of(film, video)
    store = PacketStore(scratch)
    scenes = list(film.scenes)
    last_HWC: np.ndarray | None = None
    with (
        clock.stage("take over", total=video.num_frames) as progress,
        contextlib.closing(video.frames(range(len(video.picks)))) as frames,
    ):
        for number, picked in enumerate(video.picks):
            if not len(picked):
                continue
            ends_HWC: list[np.ndarray] = []
            digest = FramesDigest(num_frames=len(picked), height=picture.height, width=picture.width)
            read = _observed(frames, ends_HWC, digest, progress, check_stop)
            encoded = encode_long_scene(
                read, num_frames=len(picked), store=store, film=output, picture=picture
            )
            jump = None if last_HWC is None else colour_jump(last_HWC[None], ends_HWC[0][None])
            record = _record(scenes[number], digest.hexdigest(), num_frames=len(picked), jump=jump)
            scenes[number] = replace(scenes[number], encoded=encoded, record=record)
            last_HWC = ends_HWC[-1]
    return replace(film, scenes=tuple(scenes), to_transcode=None)


def _picture_of(film: LoadedFilm, video: ResampledVideo) -> Picture:
    if film.fit is not None:
        return Picture.of_film(film.fit)
    return Picture(
        width=video.shape.target_width,
        height=video.shape.target_height,
        upscale=film.upscale,
        fps=Fraction(film.fps),
        upscale_filter=film.upscale_filter,
    )


def _observed(
    frames: Iterator[np.ndarray],
    ends_HWC: list[np.ndarray],
    digest: FramesDigest,
    progress: StageProgress,
    check_stop: Callable[[], None],
) -> Iterator[np.ndarray]:
    """Yield the frames of a scene, adding each to `digest`; keep the first and the last in `ends_HWC`."""
    while True:
        check_stop()
        frame_HWC = next(frames, None)
        if frame_HWC is None:
            return
        ends_HWC[1:] = [frame_HWC]
        digest.add(frame_HWC)
        progress.advance()
        yield frame_HWC


def _record(scene: LoadedScene, digest: str, *, num_frames: int, jump: float | None) -> SceneRecord:
    if scene.record is not None:
        # The scene of a film of m2d: transcoding changed only its frames.
        return scene.record.model_copy(update={"frames_sha256": digest})
    return SceneRecord(
        prompt=scene.plan.prompt,
        seed=None,
        run=scene.run,
        # The provenance builder replaces these when the new film is assembled.
        first_frame=0,
        num_frames=num_frames,
        colour_jump=jump,
        latents_sha256=None,
        frames_sha256=digest,
        clip_frames=scene.plan.geometry.num_frames,
        clip_sha256=None if scene.frames_PHWC is None else array_digest(scene.frames_PHWC),
    )
