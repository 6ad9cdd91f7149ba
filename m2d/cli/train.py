"""`m2d train`: run one stage of training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from m2d.cli.completion import recipe_files
from m2d.cli.options import FieldsAndValue, QuietFlag, ResultJsonFlag, SetOption, settings_beside
from m2d.cli.results import pick

if TYPE_CHECKING:
    from m2d.training.needs import TrainingNeeds

_MEMORY = ("weights", "gradients", "optimizer", "average", "activations")


class Resuming(TyperCommand):
    """A command whose `--resume` may be followed by `latest`, as it had to be in earlier versions."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command."""
        words: list[str] = []
        for word in args:
            if word == "--resume=latest":
                words.append("--resume")
            elif not (word == "latest" and words[-1:] == ["--resume"]):
                words.append(word)
        return super().parse_args(ctx, words)


def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A training recipe, such as recipes/training/puppet-base.yaml.", autocompletion=recipe_files
        ),
    ],
    stage: Annotated[str | None, typer.Option(help="base, pretrain or sft; must match the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume an unfinished run from its newest valid checkpoint."),
    ] = False,
    model: Annotated[str | None, typer.Option(help="Model folder, instead of the recipe's.")] = None,
    init: Annotated[str | None, typer.Option(help="Run or model folder to start from.")] = None,
    settings: SetOption = None,
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
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train one stage; the result is a model folder for `m2d generate --model`."""
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result
    from m2d.tasks.training_recipe import load_training_recipe, run_folder_for

    flags: dict[str, FieldsAndValue] = {"--model": (["model"], model), "--init": (["init"], init)}
    given = settings_beside(settings, flags)
    # Check before the imports below, which take seconds.
    document = load_training_recipe(recipe, stage=stage, model=model, init=init, settings=given)
    # All processes load the libraries; only the first one reports it.
    is_first = os.environ.get("RANK", "0") == "0"
    with loading_libraries(make_reporter(quiet=quiet or not is_first)):
        from m2d.tasks.train import plan_needs, run
        from m2d.training.stage import TrainingPlan
    if plan_only:
        needs = plan_needs(document, num_devices=devices, strategy=strategy)
        write_json(_document(needs)) if as_json else _show_needs(needs)
        return
    plan = TrainingPlan(
        recipe=document,
        run=out if out is not None else run_folder_for(recipe),
        resume=resume,
        num_threads=threads,
        cache=cache,
        max_minutes=max_minutes,
    )
    report = run(plan, make_reporter(quiet=quiet))
    if not report.is_main:
        return
    if as_json:
        write_json({"run": plan.run} | pick(report, "model", "step", "held_out_loss"))
    else:
        write_result(report.model)


def _document(needs: TrainingNeeds) -> dict[str, Any]:
    """Return what a training needs as JSON values; sizes are bytes on each device."""
    return {
        "title": needs.recipe.title,
        "sizes": needs.origin,
        **pick(needs, "num_devices", "strategy", "microbatch", "tokens_per_step", "flops_per_step"),
        **pick(needs.model, "num_parameters", "num_trained"),
        "batch_size": needs.recipe.batch_size,
        "memory_bytes": {name: getattr(needs.memory, name) for name in (*_MEMORY, "total")},
    }


def _show_needs(needs: TrainingNeeds) -> None:
    from m2d.cli.console import plain_text, show_fields, show_heading

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
    rows = {name: getattr(memory, name) for name in _MEMORY} | {"together": memory.total}
    show_fields([(name, f"{size_bytes / 2**30:8.2f} GiB") for name, size_bytes in rows.items()])
