"""What a run is about to write, checked before any work: cheap to import, unlike the run itself."""

from __future__ import annotations

from pathlib import Path

from m2d.files import check_writable
from m2d.video.run_folder import check_run_folder


def check_outputs(film: Path, *, force: bool) -> None:
    """Make sure that a film and its run folder can be written.

    Raises:
        OutputError: One of them exists and `force` is not set, or cannot be written.
    """
    check_writable(film, force=force)
    check_run_folder(film, force=force)
