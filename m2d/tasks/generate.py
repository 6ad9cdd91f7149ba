"""Generate: make the film of a planned story."""

from __future__ import annotations

from m2d.backend import Backend
from m2d.film.job import FilmJob, PlannedRun, announce
from m2d.film.make import DEFAULT_OPTIONS, FilmResult, RunOptions, make_film
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan


def run(
    plan: RunPlan, backend: Backend, *, reporter: Reporter, options: RunOptions = DEFAULT_OPTIONS
) -> FilmResult:
    """Make the film of a plan with the backend that it names; errors are those of `make_film`."""
    job = FilmJob(runs=(PlannedRun(kind="generate", plan=plan),))
    announce(job, reporter)
    return make_film(job, backend, reporter=reporter, options=options)
