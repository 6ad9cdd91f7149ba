"""`m2d board`: write an HTML page about films."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.completion import film_files
from m2d.cli.options import QuietFlag, ResultJsonFlag
from m2d.cli.results import pick


def board(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILM_OR_FOLDER",
            help="A film made by m2d, or a folder of films.",
            autocompletion=film_files,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PAGE", help="Path of the page; default NAME.html or FOLDER/board.html."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a storyboard as one HTML page.

    It shows the scenes side by side with their prompts and seeds, the mask, the lineage and the timings. The
    page needs no other files. Its path goes to stdout.
    """
    from m2d.cli.console import make_reporter, write_json, write_result
    from m2d.tasks.board import draw_board

    result = draw_board(source, out=out, reporter=make_reporter(quiet=quiet), force=force)
    if as_json:
        unread = [pick(file, "name", "reason") for file in result.unread]
        write_json(pick(result, "page", "size_bytes", "films") | {"not_shown": unread})
    else:
        write_result(result.page)
