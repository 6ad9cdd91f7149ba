"""`m2d extend`: append scenes to a film."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from m2d.cli.completion import film_files
from m2d.cli.options import FilmOptions, run_task, with_film_options
from m2d.errors import InputError
from m2d.fit import FitChoice

if TYPE_CHECKING:
    from m2d.film.make import FilmResult


@with_film_options
def extend(
    film: Annotated[
        Path,
        typer.Argument(
            metavar="FILM",
            help="The film to extend: any video file.",
            autocompletion=film_files,
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="Prompt of a new scene; repeat it for more scenes."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Path of the new film; default NAME-extended.mp4."),
    ] = None,
    only_new: Annotated[bool, typer.Option("--only-new", help="Write only the new scenes.")] = False,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", help="Frames of each new scene.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option("--join", metavar="JOIN", help="cut (default), continue, or crossfade:4 (frames)."),
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(
            "--cuts", metavar="S,S", help="Where the scenes of an external video begin, in seconds."
        ),
    ] = None,
    context_prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--context-prompt", metavar="TEXT", help="Prompt of a scene of an external video; repeatable."
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option("--fit", metavar="FIT", help="film: a video keeps its size (default); model: not."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the new scenes.")] = None,
    *,
    options: FilmOptions,
) -> None:
    """Append one scene to a film for every --prompt.

    Scenes of the film become clean context: the first and the last ones of a film made by m2d, the last ones
    of an external video. A film made by m2d passes on its cast, setting, sampling and latents; an external
    video is cut into scenes, resampled and encoded. FILM itself is never changed, unless --out names it and
    --force is given.
    """
    joined, cuts_s, fitted = parse_join(join), parse_cuts(cuts), parse_fit(fit)

    def load() -> Callable[..., FilmResult]:
        from m2d.tasks import extend as task

        return partial(
            task.run,
            task.Extension(
                film=film,
                prompts=tuple(prompt or ()),
                context_prompts=tuple(context_prompt or ()),
                cuts_s=cuts_s,
                fit=fitted,
                only_new=only_new,
                model=options.choice,
                frames=frames,
                join=joined,
            ),
        )

    if not prompt and not options.resume:
        raise InputError("missing; give one for each new scene", argument="prompt")
    overrides = options.overrides(out=out, seed=seed)
    run_task(load, film=film, ending="extended", options=options, overrides=overrides)


def parse_join(text: str | None) -> str | dict[str, int] | None:
    """Read `cut`, `continue` or `crossfade:4` as a value of the recipe's `join`; else raise InputError."""
    if text is None:
        return None
    kind, colon, number = text.partition(":")
    if text in ("cut", "continue"):
        return text
    if kind == "crossfade" and colon and number.isascii() and number.isdigit() and len(number) < 6:
        return {"crossfade": int(number)}
    raise InputError(f"--join {text!r}: use cut, continue, or crossfade:4 for four frames")


def parse_fit(text: str | None) -> FitChoice | None:
    """Read `film` or `model`; else raise InputError."""
    if text is None:
        return None
    choices: tuple[FitChoice, ...] = get_args(FitChoice)
    for choice in choices:
        if text == choice:
            return choice
    raise InputError(f"--fit {text!r}: use film or model")


def parse_cuts(text: str | None) -> tuple[float, ...] | None:
    """Read seconds such as `2.5,5.0`; raise InputError if a part is not a number."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--cuts {text!r}: give seconds, separated by commas, such as 2.5,5.0") from error
