"""`m2d train`: run one stage of training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from m2d.cli.options import QuietFlag

HELP_RESUME = "`latest`: resume from the newest valid checkpoint of the run folder."


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A training recipe, such as recipes/training/puppet-base.yaml.")
    ],
    stage: Annotated[str | None, typer.Option(help="base, pretrain or sft; must match the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    resume: Annotated[str | None, typer.Option(help=HELP_RESUME)] = None,
    model: Annotated[str | None, typer.Option(help="Model folder, instead of the recipe's.")] = None,
    init: Annotated[str | None, typer.Option(help="Run or model folder to start from.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of encoded stories.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Save and stop after this many minutes.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of CPU threads.")] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show memory, tokens and operations; do not train.")
    ] = False,
    devices: Annotated[int, typer.Option(min=1, help="With --plan: number of devices.")] = 1,
    strategy: Annotated[str, typer.Option(help="With --plan: ddp, zero2, zero3 or fsdp2.")] = "ddp",
    quiet: QuietFlag = False,
) -> None:
    """Train one stage; the result is a model folder for `m2d generate --model`."""
    from m2d.cli.console import loading_libraries, make_reporter, write_result

    # All processes load the libraries; only the first one reports it.
    is_first = os.environ.get("RANK", "0") == "0"
    with loading_libraries(make_reporter(quiet=quiet or not is_first)):
        from m2d.tasks.train import plan_training, run
    if plan_only:
        _show_needs(recipe, devices=devices, strategy=strategy, model=model, init=init)
        return
    plan = plan_training(
        recipe,
        stage=stage,
        model=model,
        init=init,
        run=out,
        resume=resume,
        num_threads=threads,
        cache=cache,
    )
    report = run(replace(plan, max_minutes=max_minutes), make_reporter(quiet=quiet))
    if report.is_main:
        write_result(report.model)


def _show_needs(recipe: Path, *, devices: int, strategy: str, model: str | None, init: str | None) -> None:
    from m2d.cli.console import plain_text, show_fields, show_heading
    from m2d.tasks.train import plan_needs

    needs = plan_needs(recipe, num_devices=devices, strategy=strategy, model=model, init=init)
    of_model, memory = needs.model, needs.memory
    show_heading(plain_text(needs.recipe.title))
    share = f"{needs.num_devices} devices, {needs.strategy}" if needs.num_devices > 1 else "one device"
    show_fields(
        [
            ("sizes", needs.origin),
            ("parameters", f"{of_model.num_parameters:,}, of which {of_model.num_trained:,} are trained"),
            ("batch", f"{needs.recipe.batch_size} samples: {share}, {needs.microbatch} at once on each"),
            ("tokens", f"{needs.tokens_per_step:,} a step, {of_model.tokens:,} at once on each device"),
            ("operations", f"{needs.flops_per_step / 1e12:,.3g} TFLOP a step, forward and backward"),
        ]
    )
    show_heading("Memory on each device")
    rows = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "average": memory.average,
        "activations": memory.activations,
        "together": memory.total,
    }
    show_fields([(name, f"{size_bytes / 2**30:8.2f} GiB") for name, size_bytes in rows.items()])
