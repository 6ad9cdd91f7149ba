"""Options that several commands share: one spelling, one help text.

Owns what they are called and say; a command's own options stand with the command.
"""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="A model folder, builtin:puppet or builtin:puppet-large."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", metavar="N", help="Denoising steps.")]
SpeedOption = Annotated[
    str | None, typer.Option("--speed", metavar="NAME", help="exact, or with steps left out: balanced, fast.")
]
BackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="What runs the transformer; see `m2d doctor`.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Where it runs: cpu, cuda, cuda:1.")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.")
]
ArtifactsOption = Annotated[
    Path | None,
    typer.Option("--artifacts", metavar="DIR", help="Where exported graphs are, instead of m2d's cache."),
]
BackendSettings = Annotated[
    list[str] | None,
    typer.Option("--backend-option", metavar="NAME=VALUE", help="The backend's own; may be repeated."),
]
PreviewFlag = Annotated[bool, typer.Option("--preview", help="First draw a contact sheet of a quick draft.")]
SavePreviewsFlag = Annotated[
    bool, typer.Option("--save-previews", help="Draw the current estimate while denoising.")
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace an existing film.")]
ResultJsonFlag = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
ReportJsonFlag = Annotated[bool, typer.Option("--json", help="Write the report as JSON to stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
StoryArgument = Annotated[Path, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")]
