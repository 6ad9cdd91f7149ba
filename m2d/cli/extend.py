"""`m2d extend`: a film goes on."""

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


def extend(
    film: Annotated[Path, typer.Argument(metavar="FILM", help="A film of m2d, or any other.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="One new scene; give it again for more."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="The new film; default NAME-extended.mp4."),
    ] = None,
    only_new: Annotated[bool, typer.Option("--only-new", help="Write the new scenes alone.")] = False,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", help="Length of the new scenes.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option("--join", metavar="JOIN", help="cut (default), continue, or crossfade:4 (frames)."),
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option("--cuts", metavar="S,S", help="Where scenes of another film begin, in seconds."),
    ] = None,
    context_prompt: Annotated[
        list[str] | None,
        typer.Option("--context-prompt", metavar="TEXT", help="What happens in a scene of another film."),
    ] = None,
    model: ModelOption = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the new scenes.")] = None,
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
    """Append a scene to a film for every --prompt.

    The last scenes are clean context. A film of m2d hands on cast, setting and sampling, and starts from its
    latents; any other film is cut into scenes, resampled and encoded. FILM itself is never changed, unless
    --out names it and --force is given.
    """
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.cli.results import show_film, show_headline, write_film_result
    from m2d.recipe.overrides import Overrides
    from m2d.registry import get_backend

    began_s = time.monotonic()
    joined, cuts_s = parse_join(join), parse_cuts(cuts)
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
    reporter = make_reporter(quiet=quiet)
    with loading_libraries(reporter):
        from m2d.film.make import RunOptions
        from m2d.tasks import extend as task
    result = task.run(
        task.Extension(
            film=film,
            prompts=tuple(prompt or ()),
            context_prompts=tuple(context_prompt or ()),
            cuts_s=cuts_s,
            only_new=only_new,
            model=model,
            frames=frames,
            join=joined,
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


def parse_join(text: str | None) -> str | dict[str, int] | None:
    """Read `cut`, `continue` or `crossfade:4` into what a recipe's `join` holds; None stays None.

    Raises:
        InputError: Anything else.
    """
    from m2d.errors import InputError

    if text is None:
        return None
    kind, colon, number = text.partition(":")
    if text in ("cut", "continue"):
        return text
    if kind == "crossfade" and colon and number.isascii() and number.isdigit() and len(number) < 6:
        return {"crossfade": int(number)}
    raise InputError(f"--join {text!r}: use cut, continue, or crossfade:4 for four frames")


def parse_cuts(text: str | None) -> tuple[float, ...] | None:
    """Read `2.5,5.0`; None stays None.

    Raises:
        InputError: Something that is no number.
    """
    from m2d.errors import InputError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--cuts {text!r}: give seconds, separated by commas, such as 2.5,5.0") from error
