"""`m2d reroll`: regenerate some scenes of a film."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.options import FilmArgument, FilmOptions, run_task, with_film_options

if TYPE_CHECKING:
    from m2d.film.make import FilmResult


@with_film_options
def reroll(
    film: FilmArgument,
    scene: Annotated[
        list[int],
        typer.Option("--scene", "-s", metavar="N", help="Scene to regenerate, counted from 1; repeatable."),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="New prompt; one for each --scene, or none."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Path of the new film; default NAME-rerolled.mp4."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="New seed; by default the scene's seed plus 1.")
    ] = None,
    *,
    options: FilmOptions,
) -> None:
    """Regenerate scenes of a film; the frames of all other scenes stay identical.

    FILM itself is never changed, unless --out names it and --force is given.
    """

    def load() -> Callable[..., FilmResult]:
        from m2d.tasks import reroll as task

        return partial(
            task.run,
            task.Reroll(
                film=film,
                scenes=tuple(number - 1 for number in scene),
                prompts=tuple(prompt or ()),
                seed=seed,
                model=options.choice,
            ),
        )

    overrides = options.overrides(out=out, own_seed=seed)
    run_task(load, film=film, ending="rerolled", options=options, overrides=overrides)
