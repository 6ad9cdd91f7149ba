"""Inspect: what a film says about itself, and whether that is true.

Owns the comparison of a film with its provenance and of its run folder with the film; changes nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m2d.errors import InputError
from m2d.video.open_film import FilmError
from m2d.video.packets import cut_packets, read_packets
from m2d.video.provenance import Provenance
from m2d.video.read import FilmInfo, film_frames, probe
from m2d.video.run_folder import read_run, run_folder_of

LatentsState = Literal["present", "absent", "unusable"]
PicturesState = Literal["as written", "changed", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolderState:
    """What the run folder beside a film is worth.

    Attributes:
        latents: Whether it holds the latents that the film was decoded from.
        problem: Why they are unusable; empty otherwise.
        timings_s: Seconds per stage of the film's last run, as far as they are known.
    """

    latents: LatentsState
    problem: str = ""
    timings_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        info: What the film says, provenance included.
        num_decoded_frames: Frames that really decode; with provenance, exactly those it tells of.
        run_folder: What is beside the film.
        pictures: Whether its pictures are those that were written with its provenance, to the byte; unknown
            when that is not told, as in films of others and in m2d's oldest.
        changed_scenes: Scenes from 0 whose pictures are others.
    """

    info: FilmInfo
    num_decoded_frames: int
    run_folder: RunFolderState
    pictures: PicturesState
    changed_scenes: tuple[int, ...]


def inspect_film(path: Path) -> Inspection:
    """Decode a film and compare it with what it says about itself.

    The provenance tells of each scene's frames before they were encoded, for comparing runs, and of its
    encoded pictures, for comparing the film itself. A film that was encoded again is no error: it is told.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
        ProvenanceError: The film's provenance is damaged or tells of another film.
    """
    info = probe(path)
    provenance = info.provenance
    num_frames = _num_decoded(path)
    if provenance is not None:
        provenance.check_film(num_frames=num_frames, width=info.width, height=info.height)
    is_told = provenance is not None and all(scene.packets_sha256 for scene in provenance.scenes)
    changed = _changed_scenes(path, provenance) if provenance is not None and is_told else ()
    return Inspection(
        info=info,
        num_decoded_frames=num_frames,
        run_folder=inspect_run_folder(path, provenance),
        pictures="unknown" if not is_told else "changed" if changed else "as written",
        changed_scenes=changed,
    )


def _num_decoded(path: Path) -> int:
    """Decode all frames, holding none."""
    with contextlib.closing(film_frames(path)) as frames:
        num_frames = sum(1 for _ in frames)
    if not num_frames:
        raise FilmError(f"{path}: holds no frame that can be decoded; give a complete video file")
    return num_frames


def _changed_scenes(path: Path, provenance: Provenance) -> tuple[int, ...]:
    header, packets = read_packets(path)
    if len(packets) != provenance.num_frames:
        return tuple(range(len(provenance.scenes)))
    found = cut_packets(header, packets, provenance.shown_frames)
    pairs = enumerate(zip(found, provenance.scenes, strict=True))
    return tuple(number for number, (scene, told) in pairs if scene.digest() != told.packets_sha256)


def inspect_run_folder(film: Path, provenance: Provenance | None) -> RunFolderState:
    """Compare the run folder of a film with the film's provenance; nothing that is wrong with it is an error.

    Args:
        film: The film's path.
        provenance: What the film carries.
    """
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
    """What of a record's timings are lengths of time: no digest covers them."""
    return {
        name: float(seconds)
        for name, seconds in timings_s.items()
        if isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0
    }
