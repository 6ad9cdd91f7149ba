"""`m2d generate`: a story becomes a film."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.backend_options import parse_options
from m2d.cli.options import (
    ArtifactsOption,
    BackendOption,
    BackendSettings,
    DeviceOption,
    DtypeOption,
    ForceFlag,
    ModelOption,
    PreviewFlag,
    QuietFlag,
    ResultJsonFlag,
    ResumeFlag,
    SavePreviewsFlag,
    SpeedOption,
    StepsOption,
)

if TYPE_CHECKING:
    from m2d.film.make import RunOptions
    from m2d.recipe.overrides import Overrides


def generate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="The film, instead of the recipe's output."),
    ] = None,
    model: ModelOption = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The story's seed.")] = None,
    steps: StepsOption = None,
    speed: SpeedOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    artifacts: ArtifactsOption = None,
    backend_option: BackendSettings = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILM",
            help="Make a film of m2d again, as NAME-again.mp4, from what it says of itself.",
        ),
    ] = None,
    preview: PreviewFlag = False,
    save_previews: SavePreviewsFlag = False,
    resume: ResumeFlag = False,
    force: ForceFlag = False,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Turn a story into a film.

    Writes NAME.mp4, and NAME.m2d/ beside it: how it was made, its latents, a contact sheet. Options override
    the recipe. The film's path goes to stdout, everything else to stderr.
    """
    from m2d.errors import InputError
    from m2d.recipe.overrides import Overrides

    overrides = Overrides(
        out=out,
        seed=seed,
        num_inference_steps=steps,
        speed=speed,
        backend=backend,
        device=device,
        dtype=dtype,
        artifacts=artifacts,
        backend_options=parse_options(backend_option),
    )
    run = _Run(force=force, resume=resume, save_previews=save_previews, quiet=quiet, as_json=as_json)
    if (recipe is None) == (source is None):
        given = "neither" if recipe is None else "both"
        raise InputError(f"STORY, --from: {given} given; give a story, or a film with --from")
    if source is not None:
        run.reproduce(source, model=model, overrides=overrides, preview=preview)
    else:
        assert recipe is not None
        run.generate(recipe, model=model, overrides=overrides, preview=preview)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The options that do not change the film."""

    force: bool
    resume: bool
    save_previews: bool
    quiet: bool
    as_json: bool

    def generate(self, recipe: Path, *, model: str | None, overrides: Overrides, preview: bool) -> None:
        from m2d.cli.console import loading_libraries, make_reporter
        from m2d.cli.results import show_film, show_headline, write_film_result
        from m2d.film.outputs import check_outputs
        from m2d.pipeline.planning import plan_recipe
        from m2d.registry import get_backend

        began_s = time.monotonic()
        plan = plan_recipe(recipe, model=model, overrides=overrides)
        reporter = make_reporter(quiet=self.quiet)
        # Before the import below, which takes seconds: what is in the way should be told at once.
        check_outputs(plan.output, force=self.force, resume=self.resume)
        backend = get_backend(plan.backend)
        show_headline(
            f"{plan.title}: {len(plan.scenes)} scenes, {plan.source.name} with {plan.backend} "
            f"on {plan.device}",
            quiet=self.quiet,
        )
        with loading_libraries(reporter):
            from m2d.tasks import generate as task
        result = task.run(plan, backend, reporter=reporter, options=self._options(), preview=preview)
        show_film(result, spent_s=time.monotonic() - began_s, quiet=self.quiet)
        write_film_result(result, as_json=self.as_json)

    def reproduce(self, film: Path, *, model: str | None, overrides: Overrides, preview: bool) -> None:
        from m2d.cli.console import loading_libraries, make_reporter
        from m2d.cli.results import numbers_from_one, show_film, write_film_result
        from m2d.registry import get_backend

        began_s = time.monotonic()
        reporter = make_reporter(quiet=self.quiet)
        with loading_libraries(reporter):
            from m2d.tasks import reproduce as task
        made = task.run(
            film,
            find_backend=get_backend,
            reporter=reporter,
            overrides=overrides,
            options=self._options(),
            model=model,
            preview=preview,
        )
        show_film(made.result, spent_s=time.monotonic() - began_s, quiet=self.quiet)
        if made.differing:
            reporter.warn(f"scenes {numbers_from_one(made.differing)} have other frames than the original")
        else:
            reporter.note("all frames are identical to the original's")
        write_film_result(
            made.result, as_json=self.as_json, differing_scenes=[scene + 1 for scene in made.differing]
        )

    def _options(self) -> RunOptions:
        from m2d.film.make import RunOptions

        return RunOptions(force=self.force, resume=self.resume, save_previews=self.save_previews)
