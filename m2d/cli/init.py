"""`m2d init`: write a new recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.options import ResultJsonFlag


def init(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Path of the recipe.  [default: story.yaml]")
    ] = None,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="Title of the story.")
    ] = "My first story",
    figure5: Annotated[
        Path | None,
        typer.Option(
            "--from-figure5", metavar="JSON", help="Import stories in the format of the paper's Figure 5."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing recipes.")] = False,
    as_json: ResultJsonFlag = False,
) -> None:
    """Write a recipe to start from.

    With --from-figure5, PATH is the folder for the recipes, one per story; by default the current folder.
    """
    from m2d.cli.console import show_hint, write_json, write_result
    from m2d.tasks.init import import_figure5, write_template

    if figure5 is not None:
        paths = import_figure5(figure5, path or Path(), force=force)
    else:
        paths = [write_template(path or Path("story.yaml"), title=title, force=force)]
    if as_json:
        write_json({"recipes": paths})
    else:
        for written in paths:
            write_result(written)
    show_hint(f"next: m2d check {paths[0]}, then m2d generate {paths[0]}")
