"""Plan and make a film, as every command that starts from a film does.

If an interrupted run already wrote the film, only its run folder is completed, without planning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from m2d.backend import Backend
from m2d.errors import InputError, Remedy
from m2d.film.job import FilmJob, announce, headline
from m2d.film.journal import open_journal
from m2d.film.journal_contents import PendingOutput, scan_journal
from m2d.film.journal_folder import CorruptFileError, Header, journal_folder_of, read_header
from m2d.film.make import FilmResult, RunOptions, complete_run, make_film
from m2d.film.outputs import check_outputs
from m2d.limits import MOST_SCENES
from m2d.progress import Reporter
from m2d.video.open_film import FilmError
from m2d.video.provenance import ProvenanceError, RunKind, parse_provenance
from m2d.video.provenance_builder import installed_versions
from m2d.video.read import probe


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    """The document of a pending output, as `make` writes it."""

    provenance: Mapping[str, Any]
    timings_s: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    made: list[Annotated[int, Field(ge=0, lt=MOST_SCENES)]]
    peaks_bytes: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, Any] | None = None


_DOCUMENT = TypeAdapter(_Document)


def plan_and_make(
    output: Path,
    plan: Callable[[], FilmJob],
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    options: RunOptions,
    on_plan: Callable[[str], None] | None = None,
    resumable: tuple[RunKind, Sequence[str]] | None = None,
) -> FilmResult:
    """Make the film that `plan` describes.

    Args:
        output: The new film.
        plan: Loads the input film and plans the job; called after the outputs are checked.
        find_backend: Returns a backend by its name.
        on_plan: Called with the job in one line before any work.
        resumable: Kind and prompts of the request; given if a film that is already written can be completed.
    """
    check_outputs(output, force=options.force, resume=options.resume)
    if options.resume and resumable is not None:
        kind, prompts = resumable
        finished = _finish_published(output, kind=kind, prompts=prompts, reporter=reporter)
        if finished is not None:
            return finished
    job = plan()
    if on_plan is not None:
        on_plan(headline(job))
    announce(job, reporter)
    return make_film(job, find_backend(job.plan.backend), reporter=reporter, options=options)


def _finish_published(
    film: Path, *, kind: RunKind, prompts: Sequence[str], reporter: Reporter
) -> FilmResult | None:
    """Complete the run folder of a film that an interrupted run had already written; None if there is none.

    On resume this comes first: the new film may have replaced the film it was made from, and then the request
    cannot be planned again. Of the request, only `kind` and the given `prompts` can still be compared.

    Raises:
        InputError: The run had another request.
        OutputError: Another process holds the film, or the disk refused.
    """
    try:
        return _completed(film, kind=kind, prompts=prompts, reporter=reporter)
    except (KeyError, TypeError, IndexError, AttributeError, ValidationError) as error:
        raise InputError(
            f"{film}: the unfinished run was not written by m2d", remedy=Remedy.DISCARD_RUN
        ) from error


def _completed(film: Path, *, kind: RunKind, prompts: Sequence[str], reporter: Reporter) -> FilmResult | None:
    folder = journal_folder_of(film)
    try:
        header = read_header(folder)
    except CorruptFileError:
        # `open_journal` reports the corrupt journal, with a remedy.
        return None
    if header is None or not _is_published(film, scan_journal(folder, header).contents.output):
        return None
    _check_same(film, header, kind=kind, prompts=prompts)
    backend = header.request["runs"][-1]["parameters"]["backend"]
    with open_journal(
        film,
        request=header.request,
        versions=installed_versions(backend),
        window_steps=header.window_steps,
        resume=True,
        force=header.force,
        reporter=reporter,
    ) as journal:
        output = journal.output
        if output is None or not _is_published(film, output):
            raise InputError(f"{film}: was changed while it was resumed; try again")
        _DOCUMENT.validate_python(output.document)
        provenance = parse_provenance(json.dumps(output.document["provenance"]))
        return complete_run(film, output, provenance, journal)


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
