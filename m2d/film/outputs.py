"""Where a film goes, and whether it and its run folder can be written, before any work. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from m2d.errors import InputError
from m2d.files import beside, check_writable
from m2d.film.journal_folder import has_journal
from m2d.recipe.fields import out_problem
from m2d.video.run_folder import check_run_folder


def check_outputs(film: Path, *, force: bool, resume: bool = False) -> None:
    """Make sure that a film and its run folder can be written.

    With an unfinished run, or with `resume`, existing files may belong to that run: `open_journal` decides.

    Raises:
        OutputError: One exists and `force` is not set, or it cannot be written.
    """
    check_replaceable(film, force=force or resume or has_journal(film))


def check_replaceable(film: Path, *, force: bool) -> None:
    """Make sure that a film and its run folder can be written, ignoring unfinished runs.

    Raises: as `check_outputs`.
    """
    check_writable(film, force=force)
    check_run_folder(film, force=force)


def output_of(film: Path, out: Path | None, *, ending: str) -> Path:
    """Return the given output, or `out/NAME-ENDING.mp4` for `out/NAME.mp4`.

    Raises:
        InputError: The output does not end in .mp4, or the film is a folder.
    """
    if out is not None:
        if problem := out_problem(out):
            raise InputError(problem, argument="out")
        return out
    if not film.name:
        raise InputError(f"{film}: is a folder; give a video file")
    return beside(film, f"-{ending}.mp4")
