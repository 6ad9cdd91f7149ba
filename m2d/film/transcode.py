"""Taking scenes over from a film that does not hold them as they are encoded here, one frame at a time.

Owns what is written down of such scenes. However long the film is, no more of it is held than a piece that is
being encoded. H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.pipeline.observer import never_stop
from m2d.progress import Clock, StageProgress
from m2d.video.digests import FramesDigest, frames_digest
from m2d.video.encode_long import encode_long_scene
from m2d.video.joining import colour_jump
from m2d.video.packet_store import PacketStore
from m2d.video.provenance import SceneRecord
from m2d.video.write import picture_of


def take_over(
    film: LoadedFilm,
    scratch: IO[bytes],
    *,
    output: Path,
    clock: Clock,
    check_stop: Callable[[], None] = never_stop,
) -> LoadedFilm:
    """Encode the scenes of a film's stream: then they can be copied, like those of any film of m2d.

    Args:
        film: What is gone on from.
        scratch: Gets what is encoded, and is needed as long as that is.
        output: The new film, whose place and name are used on the way.
        clock: Is told of the stage.
        check_stop: Called between frames; it raises to end the run there.

    Returns:
        The film without a stream; its scenes have records, and are encoded.

    Raises:
        FilmError: The film was changed since it was looked through.
        OutputError: The encoder failed, or the disk refused.
        Interrupted: `check_stop` raised it.
    """
    stream = film.stream
    if stream is None:
        return film
    shape = stream.shape
    picture = picture_of(
        shape.target_height, shape.target_width, upscale=film.upscale, fps=Fraction(film.fps)
    )
    store = PacketStore(scratch)
    scenes = list(film.scenes)
    last_HWC: np.ndarray | None = None
    with (
        clock.stage("take over", total=stream.num_frames) as progress,
        contextlib.closing(stream.frames(range(len(stream.picks)))) as frames,
    ):
        for number, picked in enumerate(stream.picks):
            if not len(picked):
                continue
            watched = _Watched(frames=frames, progress=progress, check_stop=check_stop)
            digest = FramesDigest(num_frames=len(picked), height=picture.height, width=picture.width)
            encoded = encode_long_scene(
                watched.passed(digest), num_frames=len(picked), store=store, film=output, picture=picture
            )
            jump = None if last_HWC is None else colour_jump(last_HWC[None], watched.first_HWC[None])
            record = _record(scenes[number], digest.hexdigest(), num_frames=len(picked), jump=jump)
            scenes[number] = replace(scenes[number], encoded=encoded, record=record)
            last_HWC = watched.last_HWC
    return replace(film, scenes=tuple(scenes), stream=None)


@dataclass(kw_only=True)
class _Watched:
    """A scene's frames on their way to the encoder.

    Attributes:
        frames: Those of all scenes that are still to come.
        first_HWC: The scene's first.
        last_HWC: Its last so far.
    """

    frames: Iterator[np.ndarray]
    progress: StageProgress
    check_stop: Callable[[], None]
    first_HWC: np.ndarray = field(init=False)
    last_HWC: np.ndarray = field(init=False)

    def passed(self, digest: FramesDigest) -> Iterator[np.ndarray]:
        """The same frames, noted and counted."""
        for index in itertools.count():
            self.check_stop()
            frame_HWC = next(self.frames, None)
            if frame_HWC is None:
                return
            if index == 0:
                self.first_HWC = frame_HWC
            self.last_HWC = frame_HWC
            digest.add(frame_HWC)
            self.progress.advance()
            yield frame_HWC


def _record(scene: LoadedScene, digest: str, *, num_frames: int, jump: float | None) -> SceneRecord:
    if scene.record is not None:
        # Of a film of m2d that was encoded otherwise: only the frames are others now.
        return scene.record.model_copy(update={"frames_sha256": digest})
    return SceneRecord(
        prompt=scene.plan.prompt,
        seed=None,
        run=scene.run,
        # Its place, and the digests of what is not yet there, are found when the new film is put together.
        first_frame=0,
        num_frames=num_frames,
        colour_jump=jump,
        latents_sha256=None,
        frames_sha256=digest,
        clip_frames=scene.plan.geometry.num_frames,
        clip_sha256=None if scene.frames_PHWC is None else frames_digest([scene.frames_PHWC]),
    )
