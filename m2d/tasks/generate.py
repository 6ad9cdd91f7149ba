"""Generate: from a plan to a verified film and the run folder beside it; `production` does the work."""

from __future__ import annotations

from m2d.backend import Backend
from m2d.film.draft import draw_draft
from m2d.film.job import FilmJob, PlannedRun, announce
from m2d.film.make import DEFAULT_OPTIONS, FilmResult, RunOptions, make_film
from m2d.film.outputs import check_outputs
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan


def run(
    plan: RunPlan,
    backend: Backend,
    *,
    reporter: Reporter,
    options: RunOptions = DEFAULT_OPTIONS,
    preview: bool = False,
) -> FilmResult:
    """Make the film of a plan.

    Args:
        plan: From `plan_story`.
        backend: What runs the transformer; `plan.backend` names it.
        reporter: Is told about stages, steps and warnings.
        options: How it is run.
        preview: Whether a draft's contact sheet is drawn first.

    Raises:
        M2DError: As `make_film`.
    """
    production = FilmJob(runs=(PlannedRun(kind="generate", plan=plan),))
    check_outputs(plan.output, force=options.force, resume=options.resume)
    announce(production, reporter)
    if preview:
        draw_draft(production, backend, reporter=reporter)
    return make_film(production, backend, reporter=reporter, options=options)
