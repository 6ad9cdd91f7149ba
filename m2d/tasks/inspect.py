"""Inspect: what a film says about itself, and whether that is true.

Owns the comparison of a film with its provenance and of its run folder with the film; changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2d.errors import InputError
from m2d.video.provenance import Provenance
from m2d.video.read import FilmInfo, read_film
from m2d.video.run_folder import read_run, run_folder_of

LatentsState = Literal["present", "absent", "unusable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        info: What the film says, provenance included.
        num_decoded_frames: Frames that really decode; with provenance, exactly those it tells of.
        latents: Whether the run folder beside the film holds the latents it was decoded from.
        latents_problem: Why they are unusable; empty otherwise.
    """

    info: FilmInfo
    num_decoded_frames: int
    latents: LatentsState
    latents_problem: str


def inspect_film(path: Path) -> Inspection:
    """Decode a film and compare it with what it says about itself.

    Raises:
        FilmError: Not a film, incomplete, too large, or of a format that is not read.
        ProvenanceError: The film's provenance is damaged or tells of another film.
    """
    film = read_film(path)
    latents, problem = _latents_state(path, film.provenance)
    return Inspection(
        info=film.info,
        num_decoded_frames=len(film.frames_PHWC),
        latents=latents,
        latents_problem=problem,
    )


def _latents_state(path: Path, provenance: Provenance | None) -> tuple[LatentsState, str]:
    folder = run_folder_of(path)
    if provenance is None or not folder.is_dir():
        return "absent", ""
    try:
        run = read_run(path)
    except InputError as error:
        return "unusable", str(error)
    if run.provenance.digest() != provenance.digest():
        return "unusable", f"{folder}: belongs to another run than the film"
    return "present", ""
