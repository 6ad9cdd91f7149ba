"""`m2d generate`: turn stories into films."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.batch import Batch, CandidateOptions, FilmToMake, SheetPlan
from m2d.cli.completion import film_files, recipe_files
from m2d.cli.model_options import with_options
from m2d.cli.options import FilmOptions
from m2d.cli.reproduce import run_reproduction
from m2d.cli.results import report_film, show_headline
from m2d.errors import InputError
from m2d.video.printable import counted

if TYPE_CHECKING:
    from m2d.film.make import FilmResult
    from m2d.progress import Reporter
    from m2d.recipe.overrides import Overrides
    from m2d.tasks.batch import NumSeeds, PlannedFilm, PlannedStory


@with_options(CandidateOptions)
def generate(
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="STORY",
            help="Recipes (YAML files), folders of them, or - for standard input.",
            autocompletion=recipe_files,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="Prompt of a scene, instead of a recipe; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Path of the film, or folder of several films."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the story.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="N-N", help="A film for each seed, such as 1-8 or 1,5, and a sheet."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILM", help="Same as `m2d reproduce FILM`.", autocompletion=film_files
        ),
    ] = None,
    *,
    options: CandidateOptions,
) -> None:
    """Turn stories into films.

    Writes NAME.mp4 and the folder NAME.m2d/ beside it, with the run's record, the latents and a contact
    sheet. Options override the recipe. With --seeds, the films are NAME-seed-N.mp4, and NAME-seeds.png shows
    them side by side. With --candidates, that picture is sorted by the judge's score, from best to worst, and
    NAME-candidates.json keeps seeds and scores. The paths of the films go to stdout, everything else to
    stderr.
    """
    given = [bool(recipes), bool(prompt), source is not None]
    if sum(given) != 1:
        names = [
            name for name, is_given in zip(("STORY", "--prompt", "--from"), given, strict=True) if is_given
        ]
        raise InputError(
            f"STORY, --prompt, --from: {' and '.join(names) or 'none'} given; give stories, or prompts, or a "
            "film with --from"
        )
    if seeds is not None and (seed is not None or source is not None):
        raise InputError(f"--seeds, {'--seed' if seed is not None else '--from'}: both given; give one")
    _check_candidates(options, seeds=seeds, source=source)
    overrides = options.overrides(out=out, seed=seed)
    if source is not None:
        run_reproduction(source, options=options, overrides=overrides)
        return
    _generate(recipes or (), prompt or (), seeds=seeds, options=options, overrides=overrides)


def _generate(
    recipes: Sequence[Path],
    prompts: Sequence[str],
    *,
    seeds: str | None,
    options: CandidateOptions,
    overrides: Overrides,
) -> None:
    from m2d.cli.console import make_reporter
    from m2d.cli.stories import stories_of
    from m2d.tasks.batch import plan_batch

    reporter = make_reporter(quiet=options.quiet)
    overrides = replace(overrides, downloads=reporter)
    # Check before the libraries load, which takes seconds.
    stories = stories_of(recipes, prompts, overrides.settings)
    check = None
    if options.candidates:
        from m2d.tasks.candidates import check_judge

        check = partial(check_judge, options.score)
    planned = plan_batch(
        stories,
        seeds=_seeds(seeds, options.candidates),
        model=options.choice,
        overrides=overrides,
        force=options.force,
        resume=options.resume,
        check=check,
    )
    if len(planned) == 1 and seeds is None and not options.candidates:
        began_s = time.monotonic()
        made = _make(planned[0].films[0], reporter=reporter, options=options)
        report_film(made, began_s=began_s, quiet=options.quiet, as_json=options.as_json)
        return
    batch = Batch(reporter=reporter, options=options)
    for story in planned:
        films = [
            FilmToMake(
                output=film.plan.output,
                seed=film.seed,
                make=partial(_make, film, reporter=reporter, options=options),
                complete=film.complete,
            )
            for film in story.films
        ]
        batch.make(films, _sheet(story))
    batch.report()


def _check_candidates(options: CandidateOptions, *, seeds: str | None, source: Path | None) -> None:
    options.check_judge()
    if options.candidates is not None and (seeds is not None or source is not None):
        raise InputError(
            f"--candidates, {'--seeds' if seeds is not None else '--from'}: both given; give one"
        )


def _seeds(text: str | None, candidates: int | None) -> Sequence[int] | NumSeeds:
    from m2d.cli.stories import parse_numbers
    from m2d.tasks.batch import NumSeeds

    if candidates is not None:
        return NumSeeds(candidates)
    return () if text is None else parse_numbers(text, option="--seeds")


def _make(film: PlannedFilm, *, reporter: Reporter, options: FilmOptions) -> FilmResult:
    from m2d.cli.console import loading_libraries
    from m2d.registry import get_backend

    plan = film.plan
    backend = get_backend(plan.backend)
    seed = "" if film.seed is None else f", seed {film.seed}"
    show_headline(
        f"{plan.title}{seed}: {counted(len(plan.scenes), 'scene')}, {plan.source.choice} with "
        f"{plan.backend} on {plan.device}",
        quiet=options.quiet,
    )
    with loading_libraries(reporter):
        from m2d.tasks import generate as task
    run_options = replace(options.run_options(), resume=film.resumes)
    return task.run(plan, backend, reporter=reporter, options=run_options)


def _sheet(story: PlannedStory) -> SheetPlan | None:
    if story.sheet is None:
        return None
    plan = story.films[0].plan
    sampling = plan.sampling
    facts = [
        Path(plan.source.name).name,
        counted(sampling.num_inference_steps, "step"),
        f"speed {sampling.speed}",
    ]
    return SheetPlan(
        path=story.sheet, scores=story.scores, title=story.title, facts=facts, device=plan.device
    )
