"""`m2d compare`: make stories with several methods, and measure them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2d.cli.options import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    QuietFlag,
    ResultJsonFlag,
    SetOption,
    StepsOption,
    StoriesArgument,
    settings_beside,
)

_ALL = "mask2dit,cogvideox,prompt-relay,plain,talc,storydiffusion,videostudio"


def compare(
    stories: StoriesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of films and report.")],
    methods: Annotated[
        str, typer.Option("--methods", metavar="NAME,NAME", help="Methods to compare.")
    ] = _ALL,
    model: ModelOption = None,
    image_model: Annotated[
        str | None,
        typer.Option(
            "--image-model",
            metavar="NAME",
            help="Image-to-video model that animates keyframes; else the model.",
        ),
    ] = None,
    steps: StepsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    settings: SetOption = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Folder of as many clips, for Frechet and kernel distances."),
    ] = None,
    embedder: Annotated[
        Literal["auto", "puppet", "natural", "none"],
        typer.Option(help="Networks of the scores; auto: puppet for films of the embedded models."),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace films of other settings.")] = False,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make every story with every method, with equal seeds and steps, and measure the films like `eval`.

    Writes comparison.json, comparison.md and index.html, and the films to a folder per method. A repeated
    call keeps complete films and resumes an unfinished one.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result
    from m2d.cli.stories import stories_of
    from m2d.recipe.overrides import Overrides

    given = {
        "--steps": (["sampling.num_inference_steps"], steps),
        "--device": (["backend.device"], device),
        "--dtype": (["backend.dtype"], dtype),
        "--methods": (["mask", "backend.options"], methods),
    }
    fields_set = settings_beside(settings, given)
    reporter = make_reporter(quiet=quiet)
    with loading_libraries(reporter):
        from m2d.evaluation.comparison import comparison_markdown
        from m2d.tasks.compare import RESULTS, ComparePlan
        from m2d.tasks.compare import compare as run

    plan = ComparePlan(
        stories=stories_of(stories, (), fields_set),
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        out=out,
        model=model,
        image_model=image_model,
        overrides=Overrides(num_inference_steps=steps, device=device, dtype=dtype, settings=fields_set),
        reference=reference,
        embedder=embedder,
        force=force,
    )
    result = run(plan, reporter)
    if not quiet:
        typer.echo(comparison_markdown(result.methods, num_stories=result.num_stories), err=True)
    if as_json:
        import json

        write_json({"report": result.out} | json.loads((result.out / RESULTS).read_text("ascii")))
    else:
        write_result(result.out)
