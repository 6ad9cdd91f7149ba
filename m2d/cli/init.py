"""`m2d init`: write a new recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.options import ResultJsonFlag

_MOST_NAMED = 4


def init(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Path of the recipe.  [default: story.yaml]")
    ] = None,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="Title of the story.")
    ] = "My first story",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            "--from-figure5",
            metavar="FILE",
            help="Import stories: HoloCine, StoryMem, TTT-Video, TALC, Prompt Relay, Kling, Wan, Figure 5.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing recipes.")] = False,
    as_json: ResultJsonFlag = False,
) -> None:
    """Write a recipe to start from.

    With --from, PATH is the folder for the recipes, one per story; by default the current folder.
    The layout is recognized by its fields; Figure 5 is that of the paper.
    """
    from m2d.cli.console import show_hint, write_json, write_result
    from m2d.tasks.init import write_imported, write_template

    if source is not None:
        paths = write_imported(source, path or Path(), force=force)
    else:
        paths = [write_template(path or Path("story.yaml"), title=title, force=force)]
    if as_json:
        write_json({"recipes": paths})
    else:
        for written in paths:
            write_result(written)
    made = " ".join(shlex.quote(str(each)) for each in paths[:_MOST_NAMED])
    if len(paths) > _MOST_NAMED:
        made = shlex.quote(str(paths[0].parent))
    show_hint(f"next: m2d check {made}, then m2d generate {made}")
