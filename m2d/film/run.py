"""Plan and make a film, as every command that starts from a film does.

Owns the order: check the outputs, complete a film that is already written, plan, report, make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from m2d.backend import Backend
from m2d.film.finish import finish_published
from m2d.film.job import FilmJob, announce, headline
from m2d.film.make import FilmResult, RunOptions, make_film
from m2d.film.outputs import check_outputs
from m2d.progress import Reporter
from m2d.video.provenance import RunKind


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
        reporter: Receives stages, steps, notes and warnings.
        options: How the job is run.
        on_plan: Called with the job in one line before any work.
        resumable: Kind and prompts of the request; given if a film that is already written can be completed.

    Raises:
        M2DError: See `plan` and `make_film`.
    """
    check_outputs(output, force=options.force, resume=options.resume)
    if options.resume and resumable is not None:
        kind, prompts = resumable
        finished = finish_published(output, kind=kind, prompts=prompts, reporter=reporter)
        if finished is not None:
            return finished
    job = plan()
    if on_plan is not None:
        on_plan(headline(job))
    announce(job, reporter)
    return make_film(job, find_backend(job.plan.backend), reporter=reporter, options=options)
