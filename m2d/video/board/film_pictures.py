"""Paint the pictures of a film's page while it is decoded, so that a long film need not fit into memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.video.board.pictures import FrameGrid, GridPainter, StripePainter
from m2d.video.film_frames import film_frames
from m2d.video.provenance import Provenance, SceneRecord
from m2d.video.read import FilmInfo, problems_of


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmPictures:
    """A grid of frames for each scene of a film, and the film as a stripe, a data URI."""

    grids: tuple[FrameGrid, ...]
    stripe: str


def paint_film(path: Path, info: FilmInfo, provenance: Provenance) -> FilmPictures:
    """Decode a film once, frame by frame, and paint its pictures.

    Raises:
        FilmError: The film cannot be decoded to its end.
        ProvenanceError: The provenance describes another film.
    """
    fps = float(info.fps)
    scenes = provenance.scenes
    painters = {index: GridPainter(scene.num_frames, fps=fps) for index, scene in enumerate(scenes)}
    stripe, grids = StripePainter(provenance.num_frames), {}
    first_open = num_decoded = 0
    with contextlib.closing(film_frames(path)) as frames:
        for number, frame in enumerate(frames):
            num_decoded = number + 1
            shown = _shown(scenes, number, first_open=first_open)
            wanting = [index for index in shown if painters[index].wants(number - scenes[index].first_frame)]
            if wanting or stripe.wants(number):
                frame_HWC = frame.rgb(upscale=provenance.video.upscale)
                if stripe.wants(number):
                    stripe.add(frame_HWC)
                for index in wanting:
                    painters[index].add(number - scenes[index].first_frame, frame_HWC)
            for index in shown:
                if number == scenes[index].first_frame + scenes[index].num_frames - 1:
                    # Removing the painter frees its picture.
                    grids[index] = painters.pop(index).finish()
                    first_open = index + 1
    with problems_of(path):
        provenance.check_film(num_frames=num_decoded, width=info.width, height=info.height)
    return FilmPictures(grids=tuple(grids[index] for index in range(len(scenes))), stripe=stripe.finish())


def _shown(scenes: Sequence[SceneRecord], number: int, *, first_open: int) -> list[int]:
    """Return the scenes that show a frame: two in a crossfade."""
    later = itertools.takewhile(
        lambda index: scenes[index].first_frame <= number, range(first_open, len(scenes))
    )
    return [index for index in later if number < scenes[index].first_frame + scenes[index].num_frames]
