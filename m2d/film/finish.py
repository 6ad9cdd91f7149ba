"""Complete the run folder of a film whose run was interrupted just after it wrote the film.

Owns recognizing such a film; decodes and denoises nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from m2d.errors import InputError, Remedy
from m2d.film.journal import open_journal
from m2d.film.journal_contents import PendingOutput, scan_journal
from m2d.film.journal_folder import CorruptFileError, Header, journal_folder_of, read_header
from m2d.film.make import FilmResult
from m2d.progress import Reporter
from m2d.video.open_film import FilmError
from m2d.video.provenance import ProvenanceError, RunKind, parse_provenance
from m2d.video.provenance_builder import installed_versions
from m2d.video.read import probe
from m2d.video.run_folder import finish_run


def finish_published(
    film: Path, *, kind: RunKind, prompts: Sequence[str], reporter: Reporter
) -> FilmResult | None:
    """Complete the run folder of a film that an interrupted run had already written.

    On resume this comes first: the new film may have replaced the film it was made from, and then the request
    cannot be planned again.

    Args:
        film: The output.
        kind: Kind of the run to resume.
        prompts: The prompts given now, if any: the only part of the request that can still be compared.
        reporter: Receives a note that the run is resumed.

    Returns:
        The result; None if there is no such run.

    Raises:
        InputError: The run had another request.
        OutputError: Another process holds the film, or the disk refused.
    """
    folder = journal_folder_of(film)
    try:
        header = read_header(folder)
    except CorruptFileError:
        # `open_journal` reports the corrupt journal, with a remedy.
        return None
    if header is None or not _is_published(film, scan_journal(folder, header).contents.output):
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
        output = journal.output
        if output is None or not _is_published(film, output):
            raise InputError(f"{film}: was changed while it was resumed; try again")
        document = output.document
        provenance = parse_provenance(json.dumps(document["provenance"]))
        run_folder = finish_run(
            film, provenance=provenance, files=output.files, timings_s=document["timings_s"]
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


def _is_published(film: Path, output: PendingOutput | None) -> bool:
    if output is None or not film.is_file():
        return False
    try:
        found = probe(film).provenance
    except (FilmError, ProvenanceError):
        # The file that the film is to replace may be any file.
        return False
    return found is not None and found == parse_provenance(json.dumps(output.document["provenance"]))


def _check_same(film: Path, header: Header, *, kind: RunKind, prompts: Sequence[str]) -> None:
    runs = header.request["runs"]
    earlier = [scene["prompt"] for run in runs for scene in run["recipe"]["scenes"]]
    if runs[-1]["kind"] != kind:
        difference = f"its kind is {runs[-1]['kind']}"
    elif prompts and sorted(" ".join(prompt.split()) for prompt in prompts) != sorted(earlier):
        difference = "its prompts differ"
    else:
        return
    raise InputError(
        f"{film}: the unfinished run has another request: {difference}", remedy=Remedy.REPEAT_OR_DISCARD
    )
