"""A film that was published by a run that was interrupted before its run folder was complete.

Owns telling such a film from others and completing what lies beside it, without making anything again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from m2d.errors import InputError, Remedy
from m2d.film.journal import open_journal
from m2d.film.journal_contents import Made, find_kept
from m2d.film.journal_folder import DamagedFileError, Header, journal_folder_of, read_header
from m2d.film.make import FilmResult
from m2d.progress import Reporter
from m2d.video.open_film import FilmError
from m2d.video.provenance import ProvenanceError, RunKind
from m2d.video.provenance_builder import installed_versions
from m2d.video.provenance_text import parse_provenance
from m2d.video.read import probe
from m2d.video.run_folder import finish_run


def finish_published(
    film: Path, *, kind: RunKind, prompts: Sequence[str], reporter: Reporter
) -> FilmResult | None:
    """Complete the run folder of a film that an interrupted run had published already.

    Needed before anything else when such a run is resumed: the film may have replaced the one it was made
    from, so that what was asked for cannot be planned again.

    Args:
        film: The output.
        kind: What is resumed.
        prompts: Those of the command line, if any: the only part of the request that can still be compared.
        reporter: Is told that the run goes on.

    Returns:
        What was left; None when there is no such run.

    Raises:
        InputError: The run was asked for something else.
        OutputError: Another process is at it, or it cannot be written.
    """
    folder = journal_folder_of(film)
    try:
        header = read_header(folder)
    except DamagedFileError:
        # Whoever opens the journal to go on says what can be done about it.
        return None
    if header is None or not _is_published(film, find_kept(folder, header).kept.made):
        return None
    _check_same(film, header, kind=kind, prompts=prompts)
    with open_journal(
        film,
        request=header.request,
        versions=installed_versions(),
        window_steps=header.window_steps,
        resume=True,
        force=header.force,
        reporter=reporter,
    ) as journal:
        made = journal.made
        if made is None or not _is_published(film, made):
            raise InputError(f"{film}: was changed while it was resumed; try again")
        document = made.document
        provenance = parse_provenance(json.dumps(document["provenance"]))
        run_folder = finish_run(
            film, provenance=provenance, files=made.files, timings_s=document["timings_s"]
        )
        journal.finish()
    return FilmResult(
        film=film,
        run_folder=run_folder,
        provenance=provenance,
        made=tuple(document["made"]),
        size_bytes=film.stat().st_size,
        timings_s=document["timings_s"],
    )


def _is_published(film: Path, made: Made | None) -> bool:
    if made is None or not film.is_file():
        return False
    try:
        found = probe(film).provenance
    except (FilmError, ProvenanceError):
        # What the film is to replace may be anything.
        return False
    return found is not None and found == parse_provenance(json.dumps(made.document["provenance"]))


def _check_same(film: Path, header: Header, *, kind: RunKind, prompts: Sequence[str]) -> None:
    runs = header.request["runs"]
    asked = [scene["prompt"] for run in runs for scene in run["recipe"]["scenes"]]
    if runs[-1]["kind"] != kind:
        difference = f"its kind is {runs[-1]['kind']}"
    elif prompts and sorted(" ".join(prompt.split()) for prompt in prompts) != sorted(asked):
        difference = "its prompts differ"
    else:
        return
    raise InputError(
        f"{film}: the unfinished run is of another request: {difference}", remedy=Remedy.REPEAT_OR_DISCARD
    )
