"""A whole film in memory, for measurements and tests; m2d itself decodes films frame by frame."""

# P frames, H height, W width, C channels

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2d.video.crop_resize import Turn, turn_of
from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError
from m2d.video.pixels import display_matrix
from m2d.video.provenance import Provenance
from m2d.video.read import Chapter, FilmInfo, probe


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """A decoded film.

    Attributes:
        frames_PHWC: uint8 RGB; of a film with provenance at the size the model made, of any other film turned
            upright by right angles, as its display matrix asks.
        timestamps_s: When each frame is shown, (P,).
        info: Its metadata.
    """

    frames_PHWC: np.ndarray
    timestamps_s: tuple[float, ...]
    info: FilmInfo

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """In the order of time."""
        return self.info.chapters

    @property
    def provenance(self) -> Provenance | None:
        """None when m2d did not make the film."""
        return self.info.provenance

    @property
    def scenes(self) -> tuple[np.ndarray, ...]:
        """The frames of each scene, PHWC, as the provenance divides them; a single scene without provenance.

        Frames of a crossfade belong to both scenes.
        """
        if self.provenance is None:
            return (self.frames_PHWC,)
        return tuple(
            self.frames_PHWC[scene.first_frame : scene.first_frame + scene.num_frames]
            for scene in self.provenance.scenes
        )


def read_film(path: Path) -> Film:
    """Decode all frames of a film.

    Raises:
        FilmError: Not a video, incomplete, too large, or of a format that is not read.
        ProvenanceError: The film's provenance is corrupt or describes another film.
    """
    info = probe(path)
    upscale = info.provenance.video.upscale if info.provenance else 1
    frames: list[np.ndarray] = []
    timestamps_s: list[float] = []
    turn = Turn()
    for frame in film_frames(path):
        if not frames and info.provenance is None:
            turn = turn_of(display_matrix(frame.picture)) or Turn()
        frames.append(turn.apply(frame.rgb(upscale=upscale)))
        timestamps_s.append(frame.time_s)
    if not frames:
        raise FilmError(f"{path}: holds no frame that can be decoded; give a complete video file")
    if info.provenance:
        info.provenance.check_film(num_frames=len(frames), width=info.width, height=info.height)
    return Film(frames_PHWC=np.stack(frames), timestamps_s=tuple(timestamps_s), info=info)
