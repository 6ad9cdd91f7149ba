"""Options that several commands share: their names and help texts.

Options of a single command are defined with the command.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from m2d.errors import InputError

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Model folder, builtin:puppet or builtin:puppet-large."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", metavar="N", help="Number of denoising steps.")]
SpeedOption = Annotated[
    str | None, typer.Option("--speed", metavar="NAME", help="exact; balanced or fast skip some steps.")
]
BackendOption = Annotated[
    str | None,
    typer.Option("--backend", metavar="NAME", help="Backend that runs the transformer; see `m2d doctor`."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Device that it runs on: cpu, cuda, cuda:1.")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="Precision: float32, bfloat16 or float16.")
]
ArtifactsOption = Annotated[
    Path | None,
    typer.Option("--artifacts", metavar="DIR", help="Folder of exported graphs, instead of m2d's cache."),
]
BackendSettings = Annotated[
    list[str] | None,
    typer.Option("--backend-option", metavar="NAME=VALUE", help="Option of the backend; repeatable."),
]
PreviewFlag = Annotated[bool, typer.Option("--preview", help="First draw a contact sheet of a quick draft.")]
SavePreviewsFlag = Annotated[
    bool, typer.Option("--save-previews", help="Save pictures of the current estimate while denoising.")
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Resume an unfinished run.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace an existing film.")]
ResultJsonFlag = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
ReportJsonFlag = Annotated[bool, typer.Option("--json", help="Write the report as JSON to stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings and errors.")]
StoryArgument = Annotated[Path, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")]


def parse_options(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse all `--backend-option NAME=VALUE`; raise InputError without `=` or for a name given twice."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--backend-option {text!r}: use NAME=VALUE, such as scope=whole")
        if name in found:
            raise InputError(f"--backend-option {name}: given twice, as {found[name]!r} and {value!r}")
        found[name] = value
    return found
