"""`m2d generate`: turn stories into films."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.completion import film_files, recipe_files
from m2d.cli.failures import error_document
from m2d.cli.options import FilmOptions, with_film_options
from m2d.cli.reproduce import run_reproduction
from m2d.cli.results import film_document, report_film, show_film, show_headline
from m2d.errors import InputError, Interrupted, M2DError

if TYPE_CHECKING:
    from m2d.film.make import FilmResult
    from m2d.progress import Reporter
    from m2d.recipe.overrides import Overrides
    from m2d.tasks.batch import PlannedFilm, PlannedStory


@with_film_options
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
    options: FilmOptions,
) -> None:
    """Turn stories into films.

    Writes NAME.mp4 and the folder NAME.m2d/ beside it, with the run's record, the latents and a contact
    sheet. Options override the recipe. With --seeds, the films are NAME-seed-N.mp4, and NAME-seeds.png shows
    them side by side. The paths of the films go to stdout, everything else to stderr.
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
    options: FilmOptions,
    overrides: Overrides,
) -> None:
    from m2d.cli.console import make_reporter
    from m2d.cli.stories import parse_seeds, stories_of
    from m2d.tasks.batch import plan_batch

    reporter = make_reporter(quiet=options.quiet)
    overrides = replace(overrides, downloads=reporter)
    # Check before the libraries load, which takes seconds.
    stories = stories_of(recipes, prompts, overrides.settings)
    planned = plan_batch(
        stories,
        seeds=() if seeds is None else parse_seeds(seeds),
        model=options.choice,
        overrides=overrides,
        force=options.force,
        resume=options.resume,
    )
    if len(planned) == 1 and seeds is None:
        began_s = time.monotonic()
        made = _make(planned[0].films[0], reporter=reporter, options=options)
        report_film(made, began_s=began_s, quiet=options.quiet, as_json=options.as_json)
        return
    batch = _Batch(reporter=reporter, options=options)
    for story in planned:
        batch.make(story)
    batch.report()


def _make(film: PlannedFilm, *, reporter: Reporter, options: FilmOptions) -> FilmResult:
    from m2d.cli.console import loading_libraries
    from m2d.registry import get_backend

    plan = film.plan
    backend = get_backend(plan.backend)
    seed = "" if film.seed is None else f", seed {film.seed}"
    show_headline(
        f"{plan.title}{seed}: {len(plan.scenes)} scenes, {plan.source.name} with {plan.backend} on "
        f"{plan.device}",
        quiet=options.quiet,
    )
    with loading_libraries(reporter):
        from m2d.tasks import generate as task
    run_options = replace(options.run_options(), resume=film.resumes)
    return task.run(plan, backend, reporter=reporter, options=run_options)


class _Batch:
    """Makes several films one after the other; a film that fails does not stop the others."""

    def __init__(self, *, reporter: Reporter, options: FilmOptions) -> None:
        self._reporter, self._options = reporter, options
        self._made: list[FilmResult] = []
        self._sheets: list[Path] = []
        self._failed: list[tuple[Path, M2DError]] = []

    def make(self, story: PlannedStory) -> None:
        """Make the films of a story, and the sheet of its seeds."""
        made = {film.seed: result for film in story.films if (result := self._film(film)) is not None}
        if story.sheet is None or not made:
            return
        from m2d.film.seed_sheet import draw_seed_sheet

        films = {seed: (each.film, each.provenance) for seed, each in made.items() if seed is not None}
        plan = story.films[0].plan
        sampling = plan.sampling
        steps = f"{sampling.num_inference_steps} steps"
        facts = [Path(plan.source.name).name, steps, f"speed {sampling.speed}"]
        draw_seed_sheet(story.sheet, films, title=story.title, facts=facts)
        self._sheets.append(story.sheet)
        self._reporter.note(f"all seeds: {story.sheet}")

    def _film(self, film: PlannedFilm) -> FilmResult | None:
        from m2d.cli.console import show_error, write_result

        began_s = time.monotonic()
        try:
            result = _kept(film) or _make(film, reporter=self._reporter, options=self._options)
        except Interrupted:
            raise
        except M2DError as error:
            show_error(error)
            self._failed.append((film.plan.output, error))
            return None
        self._made.append(result)
        if film.complete is not None:
            self._reporter.note(f"{result.film}: is complete already")
        elif not self._options.quiet:
            show_film(result, spent_s=time.monotonic() - began_s)
        if not self._options.as_json:
            write_result(result.film)
        return result

    def report(self) -> None:
        """Write the JSON document if asked for, and end with the exit code of the first failure."""
        from m2d.cli.console import show_error, write_json

        if self._options.as_json:
            write_json(
                {
                    "films": [film_document(result) for result in self._made],
                    "sheets": self._sheets,
                    "failed": [{"film": film} | error_document(error) for film, error in self._failed],
                }
            )
        if self._failed:
            total = len(self._failed) + len(self._made)
            show_error(f"{len(self._failed)} of {total} films were not made")
            raise typer.Exit(self._failed[0][1].exit_code)


def _kept(film: PlannedFilm) -> FilmResult | None:
    """Return the result of a film that an earlier run completed."""
    if film.complete is None:
        return None
    from m2d.film.make import FilmResult
    from m2d.video.run_folder import run_folder_of

    output = film.plan.output
    return FilmResult(
        film=output,
        run_folder=run_folder_of(output),
        provenance=film.complete,
        made=(),
        size_bytes=output.stat().st_size,
        timings_s={},
    )
