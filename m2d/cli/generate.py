"""`m2d generate`: turn a story into a film."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.options import FilmOptions, with_film_options
from m2d.errors import InputError

if TYPE_CHECKING:
    from m2d.recipe.overrides import Overrides


@with_film_options
def generate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Path of the film, instead of the recipe's output."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the story.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILM", help="Reproduce a film made by m2d, as NAME-again.mp4."),
    ] = None,
    *,
    options: FilmOptions,
) -> None:
    """Turn a story into a film.

    Writes NAME.mp4 and the folder NAME.m2d/ beside it, with the run's record, the latents and a contact
    sheet. Options override the recipe. The film's path goes to stdout, everything else to stderr.
    """
    overrides = options.overrides(out=out, seed=seed)
    if (recipe is None) == (source is None):
        given = "neither" if recipe is None else "both"
        raise InputError(f"STORY, --from: {given} given; give a story, or a film with --from")
    if source is not None:
        _reproduce(source, options=options, overrides=overrides)
    else:
        assert recipe is not None
        _generate(recipe, options=options, overrides=overrides)


def _generate(recipe: Path, *, options: FilmOptions, overrides: Overrides) -> None:
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.cli.results import report_film, show_headline
    from m2d.film.outputs import check_outputs
    from m2d.pipeline.planning import plan_recipe
    from m2d.registry import get_backend

    began_s = time.monotonic()
    plan = plan_recipe(recipe, model=options.model, overrides=overrides)
    reporter = make_reporter(quiet=options.quiet)
    # Check before the import below, which takes seconds.
    check_outputs(plan.output, force=options.force, resume=options.resume)
    backend = get_backend(plan.backend)
    show_headline(
        f"{plan.title}: {len(plan.scenes)} scenes, {plan.source.name} with {plan.backend} on {plan.device}",
        quiet=options.quiet,
    )
    with loading_libraries(reporter):
        from m2d.tasks import generate as task
    result = task.run(plan, backend, reporter=reporter, options=options.run_options())
    report_film(result, began_s=began_s, quiet=options.quiet, as_json=options.as_json)


def _reproduce(film: Path, *, options: FilmOptions, overrides: Overrides) -> None:
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.cli.results import report_film
    from m2d.registry import get_backend

    began_s = time.monotonic()
    reporter = make_reporter(quiet=options.quiet)
    with loading_libraries(reporter):
        from m2d.tasks import reproduce as task
    made = task.run(
        film,
        find_backend=get_backend,
        reporter=reporter,
        overrides=overrides,
        options=options.run_options(),
        model=options.model,
    )
    differing = [scene + 1 for scene in made.differing]
    report_film(
        made.result,
        began_s=began_s,
        quiet=options.quiet,
        as_json=options.as_json,
        differing_scenes=differing,
    )
    if differing:
        reporter.warn(f"scenes {', '.join(map(str, differing))} have other frames than the original")
    else:
        reporter.note("all frames are identical to the original's")
