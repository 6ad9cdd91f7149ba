"""`m2d compare`: make stories with several methods, and measure them side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2d.cli.model_options import ModelOptions, with_options
from m2d.cli.options import (
    DeviceOption,
    DtypeOption,
    QuietFlag,
    ResultJsonFlag,
    SetOption,
    StepsOption,
    StoriesArgument,
    settings_beside,
)
from m2d.cli.results import pick

if TYPE_CHECKING:
    from m2d.cli.options import FieldsAndValue
    from m2d.progress import Reporter
    from m2d.recipe.overrides import Overrides

_ALL = "mask2dit,cogvideox,prompt-relay,plain,talc,storydiffusion,videostudio"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ModelOptions):
    """The options that other commands have, too."""

    steps: StepsOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    settings: SetOption = None
    force: Annotated[bool, typer.Option("--force", help="Replace the report and differing films.")] = False
    as_json: ResultJsonFlag = False
    quiet: QuietFlag = False

    def overrides(self, reporter: Reporter) -> Overrides:
        """Return the values that replace those of the recipes; methods choose mask and attention."""
        from m2d.recipe.overrides import Overrides

        flags: dict[str, FieldsAndValue] = {
            "--steps": (["sampling.num_inference_steps"], self.steps),
            "--device": (["backend.device"], self.device),
            "--dtype": (["backend.dtype"], self.dtype),
            "--methods": (["mask", "backend.options"], True),
        }
        return Overrides(
            num_inference_steps=self.steps,
            settings=settings_beside(self.settings, flags),
            downloads=reporter,
            **pick(self, "device", "dtype"),
        )


@with_options(CompareOptions)
def compare(
    stories: StoriesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of films and report.")],
    methods: Annotated[
        str, typer.Option("--methods", metavar="NAME,NAME", help="Methods to compare.")
    ] = _ALL,
    image_model: Annotated[
        str | None,
        typer.Option(
            "--image-model",
            metavar="NAME",
            help="Image-to-video model that animates keyframes; else the model.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Folder of as many clips, for Frechet and kernel distances."),
    ] = None,
    embedder: Annotated[
        Literal["auto", "puppet", "natural", "none"],
        typer.Option(help="Networks of the scores; auto: puppet for films of the embedded models."),
    ] = "auto",
    *,
    options: CompareOptions,
) -> None:
    """Make every story with every method, with equal seeds and steps, and measure the films like `eval`.

    Writes comparison.json, comparison.md and index.html, and the films to a folder per method. A repeated
    call keeps complete films and resumes an unfinished one.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result
    from m2d.cli.stories import stories_of

    reporter = make_reporter(quiet=options.quiet)
    overrides = options.overrides(reporter)
    with loading_libraries(reporter):
        from m2d.evaluation.comparison import comparison_markdown
        from m2d.tasks.compare import RESULTS, ComparePlan
        from m2d.tasks.compare import compare as run

    plan = ComparePlan(
        stories=stories_of(stories, (), overrides.settings),
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        out=out,
        model=options.choice,
        image_model=image_model,
        overrides=overrides,
        reference=reference,
        embedder=embedder,
        force=options.force,
    )
    result = run(plan, reporter)
    if not options.quiet:
        typer.echo(comparison_markdown(result.methods, seeds=result.seeds), err=True)
    if options.as_json:
        import json

        from m2d.reading import memory_limit_bytes, read_text

        figures = read_text(result.out / RESULTS, limit_bytes=memory_limit_bytes())
        write_json({"report": result.out} | json.loads(figures))
    else:
        write_result(result.out)
