"""`m2d models`: the rules of models, and model folders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.completion import models as complete_models
from m2d.cli.networks import get
from m2d.cli.options import ReportJsonFlag, ResultJsonFlag
from m2d.limits import LARGEST_SEED

if TYPE_CHECKING:
    from m2d.tasks.models import ModelFacts

app = typer.Typer(no_args_is_help=True, help="Show the rules of models; write folders with random weights.")
_COLUMNS = ("size", "frames", "fps", "tokens", "image", "weights", "licence")


app.command("get")(get)


@app.command("list")
def list_models(as_json: ReportJsonFlag = False) -> None:
    """List the embedded and the published models with their sizes, frame rules and licences."""
    from m2d.cli.console import show_columns, write_json
    from m2d.tasks.models import list_models

    found = list_models()
    if as_json:
        write_json({"models": found})
    else:
        show_columns("model", _COLUMNS, [(facts.name, _cells(facts)) for facts in found])


@app.command("show")
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Model folder, or name from the list.", autocompletion=complete_models
        ),
    ],
    as_json: ReportJsonFlag = False,
) -> None:
    """Show the rules of one model: sizes, frames, tokens, data type, memory and licence."""
    from m2d.cli.console import show_fields, show_heading, write_json
    from m2d.tasks.models import show_model

    facts = show_model(model)
    if as_json:
        write_json(facts)
        return
    show_heading(facts.name)
    show_fields(_rows(facts))


@app.command("make-random")
def make_random(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published model, such as cogvideox-5b.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")],
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, max=1000, metavar="N", help="Layers of each transformer.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="A few channels and pixels, for tests.")] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGEST_SEED, metavar="N", help="Seed of the weights.")
    ] = 0,
    as_json: ResultJsonFlag = False,
) -> None:
    """Write a folder with the exact layout of a published model and random weights, for dry runs."""
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result
    from m2d.tasks.models import make_random, random_layout

    # Before libraries are loaded.
    random_layout(name, out)
    with loading_libraries(make_reporter(quiet=as_json)):
        folder = make_random(name, out, num_layers=layers, is_tiny=tiny, seed=seed)
    if as_json:
        write_json({"folder": folder})
    else:
        write_result(folder)


def _frames(facts: ModelFacts) -> str:
    return f"{facts.frame_step}k+1, {facts.num_frames}"


def _weights(facts: ModelFacts) -> str:
    from m2d.cli.console import format_size

    return f"{format_size(facts.transformer_bytes)} in {facts.dtype}"


def _cells(facts: ModelFacts) -> tuple[str, ...]:
    return (
        f"{facts.width}x{facts.height}",
        _frames(facts),
        str(facts.fps),
        str(facts.max_text_tokens),
        "needed" if facts.needs_image else "yes" if facts.takes_image else "no",
        _weights(facts),
        facts.licence or "not known",
    )


def _image(facts: ModelFacts) -> str:
    if facts.needs_image:
        return "every scene needs one as its first frame"
    return "a scene may start from one" if facts.takes_image else "takes none"


def _rows(facts: ModelFacts) -> list[tuple[str, str]]:
    others = "no other size" if facts.is_fixed_size else f"multiples of {facts.size_step}"
    rows = [
        ("family", facts.family),
        ("picture", f"{facts.width}x{facts.height}; {others}"),
        ("frames", f"{facts.num_frames} a scene at {facts.fps} fps; {facts.frame_step}k+1"),
        ("prompt", f"at most {facts.max_text_tokens} tokens"),
        ("image", _image(facts)),
        ("transformer", _weights(facts)),
        ("licence", facts.licence or "not known"),
    ]
    if facts.num_scenes is not None:
        from m2d.video.printable import counted

        rows.insert(4, ("jointly", counted(facts.num_scenes, "scene")))
    return rows
