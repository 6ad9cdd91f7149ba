"""Inspect: what a film says about itself, and whether that is true.

Owns the comparison of a film with its provenance and of its run folder with the film; changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m2d.errors import InputError
from m2d.video.provenance import Provenance
from m2d.video.read import FilmInfo, read_film
from m2d.video.run_folder import read_run, run_folder_of

LatentsState = Literal["present", "absent", "unusable"]


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
    """

    info: FilmInfo
    num_decoded_frames: int
    run_folder: RunFolderState


def inspect_film(path: Path) -> Inspection:
    """Decode a film and compare it with what it says about itself.

    The provenance's digests are those of the frames before they were encoded: of the film's own pixels only
    their number and size can be compared.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
        ProvenanceError: The film's provenance is damaged or tells of another film.
    """
    film = read_film(path)
    return Inspection(
        info=film.info,
        num_decoded_frames=len(film.frames_PHWC),
        run_folder=inspect_run_folder(path, film.provenance),
    )


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
