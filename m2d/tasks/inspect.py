"""Inspect: compare a film with its provenance, and its run folder with the film."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from m2d.errors import InputError
from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError
from m2d.video.packets import changed_scenes
from m2d.video.provenance import Provenance
from m2d.video.read import FilmInfo, probe, problems_of
from m2d.video.run_folder import read_run, run_folder_of
from m2d.video.sound import SoundTrack, sound_tracks

LatentsState = Literal["present", "absent", "unusable"]
PicturesState = Literal["as written", "changed", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolderState:
    """Whether the run folder of a film has its latents, the problem if they are unusable, and its timings."""

    latents: LatentsState
    problem: str = ""
    timings_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The result of inspecting a film.

    Attributes:
        info: The film's metadata, provenance included.
        sound: The sound tracks.
        num_decoded_frames: Number of frames that decode; it equals the number in the provenance.
        duration_s: From the first frame until the last one ends.
        notes: How the film is read, if it is not read as it is.
        run_folder: State of the run folder.
        pictures: Whether the encoded pictures are unchanged; unknown without digests of them,
            as in films of others and of m2d's first version.
        changed_scenes: Scenes from 0 whose pictures have changed.
    """

    info: FilmInfo
    sound: tuple[SoundTrack, ...]
    num_decoded_frames: int
    duration_s: float
    notes: tuple[str, ...]
    run_folder: RunFolderState
    pictures: PicturesState
    changed_scenes: tuple[int, ...]


def inspect_film(path: Path) -> Inspection:
    """Decode a film and compare it with its provenance.

    The provenance has digests of each scene's frames before encoding, to compare runs, and of its encoded
    pictures, to compare the film itself. A film that was encoded again is reported, not rejected.

    Raises:
        FilmError: The file is not a video, is incomplete or too large, or has an unsupported format.
        ProvenanceError: The provenance is corrupt or describes another film.
    """
    info = probe(path)
    provenance = info.provenance
    num_frames, duration_s, notes = _decoded(path, info)
    if provenance is not None:
        with problems_of(path):
            provenance.check_film(num_frames=num_frames, width=info.width, height=info.height)
    changed = None if provenance is None else changed_scenes(path, provenance)
    return Inspection(
        info=info,
        sound=sound_tracks(path),
        num_decoded_frames=num_frames,
        duration_s=duration_s,
        notes=notes,
        run_folder=inspect_run_folder(path, provenance),
        pictures="unknown" if changed is None else "changed" if changed else "as written",
        changed_scenes=changed or (),
    )


class _Decoded(NamedTuple):
    num_frames: int
    duration_s: float
    notes: tuple[str, ...]


def _decoded(path: Path, info: FilmInfo) -> _Decoded:
    """Count the frames that decode, one in memory at a time, and measure how long they are shown."""
    num_frames, start_s, end_s = 0, 0.0, None
    notes: tuple[str, ...] = ()
    with contextlib.closing(film_frames(path)) as frames:
        for frame in frames:
            start_s = start_s if num_frames else frame.time_s
            num_frames, end_s, notes = num_frames + 1, frame.end_s, frame.notes
    if not num_frames:
        raise FilmError(f"{path}: holds no frame that can be decoded; give a complete video file")
    duration_s = float(num_frames / info.fps) if end_s is None else end_s - start_s
    return _Decoded(num_frames, duration_s, notes)


def inspect_run_folder(film: Path, provenance: Provenance | None) -> RunFolderState:
    """Compare the run folder of a film with the film's provenance; an unusable folder is not an error."""
    folder = run_folder_of(film)
    if provenance is None or not folder.is_dir():
        return RunFolderState(latents="absent")
    try:
        run = read_run(film)
    except InputError as error:
        return RunFolderState(latents="unusable", problem=str(error))
    if run.provenance.digest() != provenance.digest():
        return RunFolderState(latents="unusable", problem=f"{folder}: belongs to another run than the film")
    return RunFolderState(latents="present", timings_s=_checked_timings(run.timings_s))


def _checked_timings(timings_s: Mapping[str, float]) -> dict[str, float]:
    """Keep the timings that are valid durations, because no digest covers them."""
    return {
        name: float(seconds)
        for name, seconds in timings_s.items()
        if isinstance(seconds, int | float) and 0 <= seconds <= sys.float_info.max
    }
