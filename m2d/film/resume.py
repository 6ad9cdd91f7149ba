"""An unfinished run: how far it got, whether it may be gone on with, and with what.

Owns the verdict and its words; the journal's files are read in `journal_kept`, and written by `journal`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from m2d.errors import InputError, OutputError, Remedy
from m2d.files import remove_file
from m2d.film.differences import differences, listed
from m2d.film.journal_contents import Kept, find_kept
from m2d.film.journal_folder import (
    DamagedFileError,
    Header,
    discard,
    journal_folder_of,
    read_header,
    write_header,
)
from m2d.film.outputs import check_replaceable
from m2d.progress import Reporter
from m2d.video.run_folder import RECORD, run_folder_of

# `differences` names what differs by where it stands in the journal's header.
_OF_A_RUN = re.compile(r"runs\[\d+\]\.")
_RECIPE = re.compile(r"runs\[\d+\]\.recipe\.")


class Opened(NamedTuple):
    """A run, new or unfinished, and what is there of it."""

    header: Header
    kept: Kept


def refuse_unfinished(film: Path) -> None:
    """Make sure that no unfinished run of `film` would be lost.

    Raises:
        OutputError: There is one, and this is how far it got.
    """
    folder = journal_folder_of(film)
    try:
        header = read_header(folder)
    except DamagedFileError as error:
        raise OutputError(
            f"{film}: an unfinished run is here, but {error}", remedy=Remedy.DISCARD_RUN
        ) from error
    if header is None:
        return
    kept = find_kept(folder, header).kept
    if not kept.is_empty:
        raise OutputError(
            f"{film}: an unfinished run is here: {kept.progress(header)}", remedy=Remedy.RESUME_OR_DISCARD
        )


def resume_unfinished(film: Path, wanted: Header, reporter: Reporter) -> Opened:
    """Go on with the unfinished run of `film`.

    Args:
        film: What is made.
        wanted: The run as it is asked for now; only the same request is resumed.
        reporter: Is told from where the run goes on, about damage and about other versions.

    Raises:
        InputError: There is nothing to resume, or it is another request's.
        OutputError: The film exists and is not this run's, or the disk refused.
    """
    folder = journal_folder_of(film)
    header = _unfinished_header(film, folder)
    _check_same(film, header, wanted)
    _warn_of_versions(header, wanted, reporter)
    found = find_kept(folder, header)
    for damage in found.damaged:
        reporter.warn(f"{damage}; it is not used")
    check_replaceable(film, force=wanted.force or header.force or found.kept.made is not None)
    # They would count again as soon as what is missing before them is there.
    for path in found.useless:
        remove_file(path)
    versions = tuple(version for version in wanted.versions if version not in header.versions)
    grown = replace(header, versions=header.versions + versions, force=header.force or wanted.force)
    if grown != header:
        write_header(folder, grown)
    reporter.note(f"resuming the unfinished run: {found.kept.progress(header)}")
    return Opened(grown, found.kept)


def _unfinished_header(film: Path, folder: Path) -> Header:
    try:
        header = read_header(folder)
    except DamagedFileError as error:
        raise InputError(
            f"{film}: the unfinished run cannot be resumed: {error}", remedy=Remedy.DISCARD_RUN
        ) from error
    if header is not None:
        return header
    # What an interruption of `finish` left.
    discard(folder)
    is_complete = film.is_file() and (run_folder_of(film) / RECORD).is_file()
    state = "the film is complete" if is_complete else "no unfinished run is there"
    raise InputError(f"{film}: nothing to resume: {state}", remedy=Remedy.START_RUN)


def _check_same(film: Path, header: Header, wanted: Header) -> None:
    steps = [{"window_steps": list(run.window_steps)} for run in (header, wanted)]
    differing = differences(header.request, wanted.request) or differences(*steps)
    if differing:
        raise InputError(
            f"{film}: the unfinished run is of another request: {listed(_as_asked(differing))}",
            remedy=Remedy.REPEAT_OR_DISCARD,
        )


def _as_asked(differing: Sequence[str]) -> list[str]:
    """Differences by the names a recipe has for them; what follows from those is not told again."""
    asked = [_RECIPE.sub("", difference) for difference in differing if _RECIPE.match(difference)]
    return asked or [_OF_A_RUN.sub("", difference) for difference in differing]


def _warn_of_versions(header: Header, wanted: Header, reporter: Reporter) -> None:
    (ours,) = wanted.versions
    differing = [difference for theirs in header.versions for difference in differences(theirs, ours)]
    if differing:
        reporter.warn(
            f"other versions made a part of this run: {listed(differing)}: "
            "the film will not be that of an uninterrupted run to the last bit"
        )
