"""`m2d reroll`: some scenes of a film are made anew."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

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


def reroll(
    film: Annotated[Path, typer.Argument(metavar="FILM", help="A film of m2d.")],
    scene: Annotated[
        list[int],
        typer.Option(
            "--scene", "-s", metavar="N", help="A scene to make anew, counted from 1; may be repeated."
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Its new prompt; one for each --scene, or none."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="The new film; default NAME-rerolled.mp4."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Its seed; without it, the next one.")
    ] = None,
    model: ModelOption = None,
    steps: StepsOption = None,
    speed: SpeedOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    artifacts: ArtifactsOption = None,
    backend_option: BackendSettings = None,
    preview: PreviewFlag = False,
    save_previews: SavePreviewsFlag = False,
    resume: ResumeFlag = False,
    force: ForceFlag = False,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make scenes of a film anew among the others, whose frames stay identical.

    FILM itself is never changed, unless --out names it and --force is given.
    """
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.cli.results import show_film, show_headline, write_film_result
    from m2d.recipe.overrides import Overrides
    from m2d.registry import get_backend

    began_s = time.monotonic()
    overrides = Overrides(
        out=out,
        num_inference_steps=steps,
        speed=speed,
        backend=backend,
        device=device,
        dtype=dtype,
        artifacts=artifacts,
        backend_options=parse_options(backend_option),
    )
    reporter = make_reporter(quiet=quiet)
    with loading_libraries(reporter):
        from m2d.film.make import RunOptions
        from m2d.tasks import reroll as task
    result = task.run(
        task.Reroll(
            film=film,
            scenes=tuple(number - 1 for number in scene),
            prompts=tuple(prompt or ()),
            seed=seed,
            model=model,
        ),
        find_backend=get_backend,
        reporter=reporter,
        overrides=overrides,
        options=RunOptions(force=force, resume=resume, save_previews=save_previews),
        preview=preview,
        on_plan=partial(show_headline, quiet=quiet),
    )
    show_film(result, spent_s=time.monotonic() - began_s, quiet=quiet)
    write_film_result(result, as_json=as_json)
