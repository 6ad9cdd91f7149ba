"""`m2d generate`: turn stories into films."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2d.cli.completion import film_files, recipe_files
from m2d.cli.failures import error_document
from m2d.cli.model_options import with_options
from m2d.cli.options import FilmOptions
from m2d.cli.reproduce import run_reproduction
from m2d.cli.results import film_document, report_film, show_film, show_headline
from m2d.errors import InputError, Interrupted, M2DError

if TYPE_CHECKING:
    from m2d.film.make import FilmResult
    from m2d.progress import Reporter
    from m2d.recipe.overrides import Overrides
    from m2d.tasks.batch import NumSeeds, PlannedFilm, PlannedStory
    from m2d.video.provenance import Provenance

_JUDGE: Literal["sequence"] = "sequence"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(FilmOptions):
    """The shared options, and those that choose among several films of a story."""

    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates", min=2, max=1000, metavar="N", help="Make N films from the seed on; score each."
        ),
    ] = None
    judge: Annotated[
        Literal["sequence", "visual", "semantic", "cross_talk", "smoothness"] | None,
        typer.Option("--judge", help="Score of `m2d eval` that ranks the candidates.", show_default=False),
    ] = None


@with_options(GenerateOptions)
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
    options: GenerateOptions,
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
    options: GenerateOptions,
    overrides: Overrides,
) -> None:
    from m2d.cli.console import make_reporter
    from m2d.cli.stories import stories_of
    from m2d.tasks.batch import plan_batch

    reporter = make_reporter(quiet=options.quiet)
    overrides = replace(overrides, downloads=reporter)
    # Check before the libraries load, which takes seconds.
    stories = stories_of(recipes, prompts, overrides.settings)
    planned = plan_batch(
        stories,
        seeds=_seeds(seeds, options.candidates),
        model=options.choice,
        overrides=overrides,
        force=options.force,
        resume=options.resume,
    )
    if options.candidates:
        from m2d.tasks.candidates import check_judge

        check_judge(options.judge or _JUDGE, [story.films[0].plan for story in planned])
    if len(planned) == 1 and seeds is None and not options.candidates:
        began_s = time.monotonic()
        made = _make(planned[0].films[0], reporter=reporter, options=options)
        report_film(made, began_s=began_s, quiet=options.quiet, as_json=options.as_json)
        return
    batch = _Batch(reporter=reporter, options=options)
    for story in planned:
        batch.make(story)
    batch.report()


def _check_candidates(options: GenerateOptions, *, seeds: str | None, source: Path | None) -> None:
    if options.judge is not None and options.candidates is None:
        raise InputError("--judge: ranks candidates; give --candidates, too")
    if options.candidates is not None and (seeds is not None or source is not None):
        raise InputError(
            f"--candidates, {'--seeds' if seeds is not None else '--from'}: both given; give one"
        )


def _seeds(text: str | None, candidates: int | None) -> Sequence[int] | NumSeeds:
    from m2d.cli.stories import parse_seeds
    from m2d.tasks.batch import NumSeeds

    if candidates is not None:
        return NumSeeds(candidates)
    return () if text is None else parse_seeds(text)


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

    def __init__(self, *, reporter: Reporter, options: GenerateOptions) -> None:
        self._reporter, self._options = reporter, options
        self._made: list[FilmResult] = []
        self._sheets: list[Path] = []
        self._failed: list[tuple[Path, M2DError]] = []
        self._best: list[dict[str, object]] = []

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
        notes = self._judged(story, films) if self._options.candidates else {}
        films = {seed: films[seed] for seed in notes} or films
        draw_seed_sheet(story.sheet, films, title=story.title, facts=facts, notes=notes)
        self._sheets.append(story.sheet)
        self._reporter.note(f"all seeds: {story.sheet}")

    def _judged(self, story: PlannedStory, films: Mapping[int, tuple[Path, Provenance]]) -> dict[int, str]:
        """Score a story's films, keep the scores, and return a note for each seed, the best one first."""
        from m2d.tasks.candidates import ranked_candidates, write_candidates

        judge = self._options.judge or _JUDGE
        found, report = ranked_candidates(
            {seed: film for seed, (film, _) in films.items()},
            judge,
            device=story.films[0].plan.device,
            reporter=self._reporter,
        )
        write_candidates(story.scores, found, judge, report)
        best = found[0]
        self._reporter.note(f"best by {judge}: {best.film}, {best.scores[judge]:.4g}")
        self._best.append({"judge": judge, "film": best.film, "seed": best.seed, "scores": story.scores})
        return {each.seed: f", {judge} {each.scores[judge]:.4g}" for each in found}

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
                | ({"best": self._best} if self._options.candidates else {})
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
