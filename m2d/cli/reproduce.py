"""`m2d reproduce`: make a film again from its own record."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.options import FilmArgument, FilmOptions, with_film_options

if TYPE_CHECKING:
    from m2d.recipe.overrides import Overrides


@with_film_options
def reproduce(
    film: FilmArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Path of the new film; default NAME-again.mp4."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Another seed of the story.")
    ] = None,
    *,
    options: FilmOptions,
) -> None:
    """Make a film again from its own record, and compare every scene.

    Needs no recipe: the film's tags hold the recipes of all its runs. Scenes whose frames differ from the
    original's are named. Options override the recorded values.
    """
    run_reproduction(film, options=options, overrides=options.overrides(out=out, seed=seed))


def run_reproduction(film: Path, *, options: FilmOptions, overrides: Overrides) -> None:
    """Reproduce `film` and report the new one."""
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.cli.results import report_film
    from m2d.registry import get_backend
    from m2d.tasks.inputs import check_film

    began_s = time.monotonic()
    check_film(film, overrides.out, ending="again", force=options.force, resume=options.resume)
    reporter = make_reporter(quiet=options.quiet)
    with loading_libraries(reporter):
        from m2d.tasks import reproduce as task
    made = task.run(
        film,
        find_backend=get_backend,
        reporter=reporter,
        overrides=replace(overrides, downloads=reporter),
        options=options.run_options(),
        model=options.choice,
    )
    differing = [scene + 1 for scene in made.differing]
    report_film(
        made.result,
        began_s=began_s,
        quiet=options.quiet,
        as_json=options.as_json,
        differing_scenes=differing,
    )
    original = "the original"
    if made.is_edited:
        original = "its record"
        reporter.warn(f"{film}: its pictures are not those of its record: changed or encoded again")
    if differing:
        reporter.warn(f"scenes {', '.join(map(str, differing))} have other frames than {original}")
    else:
        reporter.note(f"all frames are identical to {original}'s")
