"""`m2d reroll`: some scenes of a film are made anew."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.backend_options import parse_options


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
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A model folder, or builtin:puppet.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Denoising steps.")] = None,
    speed: Annotated[
        str | None,
        typer.Option("--speed", metavar="NAME", help="exact, or with steps left out: balanced, fast."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="NAME", help="What runs the transformer.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Where it runs: cpu, cuda, cuda:1.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.")
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option("--artifacts", metavar="DIR", help="Where exported graphs are, instead of m2d's cache."),
    ] = None,
    backend_option: Annotated[
        list[str] | None,
        typer.Option("--backend-option", metavar="NAME=VALUE", help="The backend's own; may be repeated."),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="First draw a contact sheet of a quick draft.")
    ] = False,
    save_previews: Annotated[
        bool, typer.Option("--save-previews", help="Draw the current estimate while denoising.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing film.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")
    ] = False,
) -> None:
    """Make scenes of a film anew among the others, whose frames stay identical.

    FILM itself is never changed, unless --out names it and --force is given.
    """
    from m2d.cli.console import make_reporter
    from m2d.cli.results import show_film, show_headline, write_film_result
    from m2d.recipe.plan import Overrides
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
    with reporter.stage("load libraries"):
        from m2d.tasks import reroll as task
        from m2d.tasks.production import ProductionOptions
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
        options=ProductionOptions(force=force, resume=resume, save_previews=save_previews),
        preview=preview,
        on_plan=partial(show_headline, quiet=quiet),
    )
    show_film(result, spent_s=time.monotonic() - began_s, quiet=quiet)
    write_film_result(result, as_json=as_json)
