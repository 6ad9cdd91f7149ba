"""`m2d train`: one stage of training from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP_RESUME = "`latest`: go on from the newest sound checkpoint of the run folder."


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A training recipe, such as recipes/training/puppet-base.yaml.")
    ],
    stage: Annotated[str | None, typer.Option(help="base, pretrain or sft; must be the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    resume: Annotated[str | None, typer.Option(help=HELP_RESUME)] = None,
    model: Annotated[str | None, typer.Option(help="Model folder instead of the recipe's.")] = None,
    init: Annotated[str | None, typer.Option(help="Run or model folder to start from.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of encoded stories.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop, and save, after so much training.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only.")] = False,
) -> None:
    """Train one stage and leave a model folder that `m2d generate --model` takes."""
    from m2d.cli.console import make_reporter, plain_text, write_result
    from m2d.tasks.train import plan_training, run

    plan = plan_training(
        recipe,
        stage=stage,
        model=model,
        init=init,
        run=out,
        resume=resume,
        max_minutes=max_minutes,
        num_threads=threads,
        cache=cache,
    )
    report = run(plan, make_reporter(quiet=quiet))
    write_result(plain_text(str(report.model)))
