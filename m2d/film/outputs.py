"""What a run is about to write, checked before any work: cheap to import, unlike the run itself."""

from __future__ import annotations

from pathlib import Path

from m2d.files import check_writable
from m2d.film.journal_folder import has_journal
from m2d.video.run_folder import check_run_folder


def check_outputs(film: Path, *, force: bool, resume: bool = False) -> None:
    """Make sure that a film and its run folder can be written.

    Where an unfinished run is, or is asked for, what exists may be that run's own, and another process may be
    at it now: only the journal can tell, once it is open.

    Raises:
        OutputError: One of them exists and `force` is not set, or cannot be written.
    """
    check_replaceable(film, force=force or resume or has_journal(film))


def check_replaceable(film: Path, *, force: bool) -> None:
    """Make sure that a film and its run folder can be written, whatever unfinished run is there.

    Raises:
        OutputError: One of them exists and `force` is not set, or cannot be written.
    """
    check_writable(film, force=force)
    check_run_folder(film, force=force)
