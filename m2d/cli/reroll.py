"""`m2d reroll`: regenerate some scenes of a film."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.batch import Batch, CandidateOptions, FilmToMake, SheetPlan
from m2d.cli.model_options import with_options
from m2d.cli.options import FilmArgument, FilmOptions, run_task
from m2d.cli.results import show_headline
from m2d.cli.stories import parse_numbers

if TYPE_CHECKING:
    from m2d.film.make import FilmResult
    from m2d.recipe.overrides import Overrides
    from m2d.tasks.reroll import Reroll

_ENDING = "rerolled"


@with_options(CandidateOptions)
def reroll(
    film: FilmArgument,
    scene: Annotated[
        list[str],
        typer.Option(
            "--scene", "-s", metavar="N", help="Scenes to regenerate, counted from 1, such as 2 or 1,3-5."
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="New prompt; one for each scene, or none."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Path of the new film; default NAME-rerolled.mp4."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="New seed; by default the scene's seed plus 1.")
    ] = None,
    *,
    options: CandidateOptions,
) -> None:
    """Regenerate scenes of a film; the frames of all other scenes stay identical.

    FILM itself is never changed, unless --out names it and --force is given. With --candidates, the new films
    are NAME-rerolled-seed-N.mp4, a picture shows them from best to worst, and all chosen scenes get the
    candidate's seed.
    """
    options.check_judge()
    overrides = options.overrides(out=out, own_seed=seed)
    scenes = parse_numbers(",".join(scene), option="--scene")
    request = _Request(film=film, scenes=scenes, prompts=tuple(prompt or ()), seed=seed)
    if options.candidates is not None:
        _reroll_candidates(request, options.candidates, options=options, overrides=overrides)
        return

    def load() -> Callable[..., FilmResult]:
        from m2d.tasks import reroll as task

        return partial(task.run, request.task(options))

    run_task(load, film=film, ending=_ENDING, options=options, overrides=overrides)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """What is regenerated; scenes are counted from 1."""

    film: Path
    scenes: tuple[int, ...]
    prompts: tuple[str, ...]
    seed: int | None

    def task(self, options: FilmOptions) -> Reroll:
        """Return the request of the task, whose import takes seconds."""
        from m2d.tasks.reroll import Reroll

        return Reroll(
            film=self.film,
            scenes=tuple(number - 1 for number in self.scenes),
            prompts=self.prompts,
            seed=self.seed,
            model=options.choice,
        )


def _reroll_candidates(
    request: _Request, count: int, *, options: CandidateOptions, overrides: Overrides
) -> None:
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.registry import get_backend

    reporter = make_reporter(quiet=options.quiet)
    overrides = replace(overrides, downloads=reporter)
    from m2d.tasks.inputs import check_film

    check_film(request.film, overrides.out, ending=_ENDING, force=True, resume=False)
    with loading_libraries(reporter):
        from m2d.tasks.reroll import run
        from m2d.tasks.reroll_candidates import plan_candidates

        run_options = options.run_options()
    planned = plan_candidates(
        request.task(options),
        count,
        judge=options.score,
        overrides=overrides,
        force=options.force,
        resume=options.resume,
    )
    films = [
        FilmToMake(
            output=film.output,
            seed=film.seed,
            make=partial(
                run,
                film.reroll,
                find_backend=get_backend,
                reporter=reporter,
                overrides=replace(overrides, out=film.output),
                options=replace(run_options, resume=film.resumes),
                on_plan=partial(show_headline, quiet=options.quiet),
            ),
            complete=film.complete,
        )
        for film in planned.films
    ]
    batch = Batch(reporter=reporter, options=options)
    batch.make(
        films,
        SheetPlan(
            path=planned.sheet,
            scores=planned.scores,
            title=planned.title,
            facts=planned.facts,
            device=planned.device,
        ),
    )
    batch.report()
