"""Check a command's film and output before the libraries load, which takes seconds. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from m2d.film.outputs import check_outputs, output_of
from m2d.video.open_film import FilmError
from m2d.video.read import probe


def check_film(film: Path, out: Path | None, *, ending: str, force: bool, resume: bool) -> None:
    """Check that `film` is a video and that the film made from it can be written.

    Args:
        out: The new film, or None for `NAME-ENDING.mp4`.
        resume: An unfinished run is resumed; it may have replaced `film`, so only the output is checked.

    Raises:
        FilmError: `film` is missing, is not a video, or is incomplete.
        ProvenanceError: Its record is corrupt or describes another film.
        InputError: The output does not end in .mp4, or the film is a folder.
        OutputError: The output exists already or cannot be written.
    """
    check_outputs(output_of(film, out, ending=ending), force=force, resume=resume)
    if resume:
        return
    try:
        probe(film)
    except OSError as error:
        raise FilmError(f"{film}: cannot be read: {error.strerror}") from error
