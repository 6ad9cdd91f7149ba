"""`m2d backends`: the installed backends, where they work, and the exported graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from m2d.cli.options import ReportJsonFlag

if TYPE_CHECKING:
    from m2d.backend import StoredArtifact
    from m2d.tasks.backends import BackendFacts

app = typer.Typer(no_args_is_help=True, help="List backends and exported graphs.")


@app.command("list")
def list_backends(as_json: ReportJsonFlag = False) -> None:
    """List the installed backends and the graphs in m2d's cache, without importing their libraries."""
    from m2d.tasks.backends import examine

    _report(examine(), as_json=as_json)


@app.command("doctor")
def doctor(as_json: ReportJsonFlag = False) -> None:
    """Show on which devices each backend works, and what is untested on hardware. Always exits with 0."""
    from m2d.tasks.backends import examine
    from m2d.tasks.doctor import device_names

    _report(examine(device_names()), as_json=as_json)


def _report(found: Sequence[BackendFacts], *, as_json: bool) -> None:
    from m2d.cli.console import show_heading, show_states, write_json

    if as_json:
        write_json({"backends": found})
        return
    show_heading("Backends")
    show_states([row for facts in found for row in _rows(facts)])
    artifacts = [artifact for facts in found for artifact in facts.artifacts]
    if artifacts:
        show_heading("Exported graphs")
        show_states([(artifact.folder.name, True, _text(artifact)) for artifact in artifacts])


def _rows(facts: BackendFacts) -> list[tuple[str, bool, str]]:
    can = ", ".join(word for word, does in (("trains", facts.trains), ("exports", facts.exports)) if does)
    told = "; ".join(filter(None, (can, facts.caveat)))
    if facts.problem is not None or not facts.problem_on:
        return [(facts.name, facts.problem is None, facts.problem or told)]
    return [
        (f"{facts.name} on {device}", problem is None, problem or told)
        for device, problem in facts.problem_on.items()
    ]


def _text(artifact: StoredArtifact) -> str:
    from m2d.cli.console import format_size

    manifest = artifact.manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return (
        f"{manifest.device}, {format_size(artifact.size_bytes)}, {versions}; "
        f"differs from eager by {artifact.relative_error:.1e}"
    )
