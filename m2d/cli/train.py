"""`m2d train`: run one stage of training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer
from typer.core import TyperCommand

from m2d.cli.completion import recipe_files
from m2d.cli.options import FieldsAndValue, QuietFlag, ResultJsonFlag, SetOption, settings_beside
from m2d.cli.results import pick
from m2d.errors import InputError
from m2d.limits import MOST_THREADS
from m2d.progress import SilentReporter
from m2d.video.printable import counted

if TYPE_CHECKING:
    from m2d.progress import Reporter
    from m2d.training.data_check import DataSummary
    from m2d.training.defaults import ChosenRecipe
    from m2d.training.needs import TrainingNeeds
    from m2d.training.recipe import TrainingRecipe

HELP_DATA = "Train on these clips without a recipe: a folder of a.mp4 + a.txt pairs, or a CSV, JSON or JSONL."
_MOST_SHOWN = 20

_MEMORY = ("weights", "gradients", "optimizer", "average", "activations")


class _Run(TypedDict):
    """What a training plan takes from the flags."""

    resume: bool
    max_minutes: float | None
    num_threads: int | None


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
        Path | None,
        typer.Argument(
            help="A training recipe, such as recipes/training/puppet-base.yaml.", autocompletion=recipe_files
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="PATH", help=HELP_DATA)] = None,
    stage: Annotated[str | None, typer.Option(help="base, pretrain or sft; must match the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE or runs/DATA]")] = None,
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
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="Number of CPU threads.")
    ] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the recipe, with every choice; do not train.")
    ] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Check the data, show memory, tokens and operations; do not train.")
    ] = False,
    devices: Annotated[int, typer.Option(min=1, max=1_000_000, help="With --plan: number of devices.")] = 1,
    strategy: Annotated[str, typer.Option(help="With --plan: ddp, zero2, zero3 or fsdp2.")] = "ddp",
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train one stage; the result is a model folder for `m2d generate --model`.

    With --data instead of a recipe, m2d chooses a recipe that fits the clips, the model and this machine.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result
    from m2d.tasks.training_recipe import load_training_recipe, naming_places, run_folder_for

    _check_options(recipe, data, init=init)
    flags: dict[str, FieldsAndValue] = {"--model": (["model"], model), "--init": (["init"], init)}
    if data is not None:
        flags["--stage"] = (["stage"], stage)
    given = settings_beside(settings, flags)
    # Check before the imports below, which take seconds.
    document = None
    if recipe is not None:
        document = load_training_recipe(recipe, stage=stage, model=model, init=init, settings=given)
    # All processes load the libraries; only the first one reports it.
    is_first = os.environ.get("RANK", "0") == "0"
    reporter = make_reporter(quiet=quiet)
    with loading_libraries(make_reporter(quiet=quiet or not is_first)):
        from m2d.tasks.own_clips import OwnClips, choose, train_on
        from m2d.tasks.train import run
        from m2d.training.stage import TrainingPlan
    clips = OwnClips(data=data or Path(), model=model, stage=stage, cache=cache, settings=given)
    if print_recipe or plan_only:
        chosen = choose(clips, reporter) if document is None else None
        shown = chosen.recipe if chosen else document
        assert shown is not None
        if print_recipe:
            _print_recipe(shown, chosen, as_json=as_json)
        else:
            with naming_places(recipe, settings=given):
                found = _plan(shown, chosen, reporter, devices=devices, strategy=strategy, cache=cache)
            write_json(_document(*found)) if as_json else _show_plan(*found)
        return
    folder = out if out is not None else run_folder_for(recipe or clips.data)
    how = _Run(resume=resume, max_minutes=max_minutes, num_threads=threads)
    if document is None:
        report = train_on(clips, reporter, run=folder, **how)
    else:
        with naming_places(recipe, settings=given):
            report = run(TrainingPlan(recipe=document, run=folder, cache=cache, **how), reporter)
    if report.is_main:
        facts = {"run": folder} | pick(report, "model", "step", "held_out_loss")
        write_json(facts) if as_json else write_result(report.model)


def _check_options(recipe: Path | None, data: Path | None, *, init: str | None) -> None:
    """Refuse, before the libraries load, arguments that contradict each other."""
    if recipe is None and data is None:
        raise InputError("give a training recipe, or your clips with --data FOLDER")
    if recipe is not None and data is not None:
        raise InputError(
            f"the recipe {recipe} names its own data; give one of the two", argument=f"data {data}"
        )
    if data is None:
        return
    if init is not None:
        raise InputError("training on --data starts from --model; leave this out", argument=f"init {init}")
    if not data.exists():
        raise InputError("no such folder or file", argument=f"data {data}")


def _print_recipe(recipe: TrainingRecipe, chosen: ChosenRecipe | None, *, as_json: bool) -> None:
    from m2d.cli.console import write_json
    from m2d.tasks.own_clips import text_of
    from m2d.training.recipe_text import recipe_text

    if as_json:
        reasons = list(chosen.reasons) if chosen else []
        write_json({"recipe": recipe.model_dump(mode="json"), "reasons": reasons})
    else:
        typer.echo(text_of(chosen) if chosen else recipe_text(recipe), nl=False)


def _plan(
    recipe: TrainingRecipe,
    chosen: ChosenRecipe | None,
    reporter: Reporter,
    *,
    devices: int,
    strategy: str,
    cache: Path | None,
) -> tuple[TrainingNeeds, DataSummary | None]:
    from m2d.tasks.own_clips import check_data
    from m2d.tasks.train import plan_needs, warn_of_schedule
    from m2d.training.validation import check_stories

    # The choice has warned about the data.
    reporter = SilentReporter() if chosen else reporter
    check_stories(recipe)
    warn_of_schedule(recipe, reporter)
    needs = plan_needs(recipe, num_devices=devices, strategy=strategy)
    return needs, check_data(recipe, reporter, cache=cache, found=chosen.found if chosen else None)


def _document(needs: TrainingNeeds, summary: DataSummary | None) -> dict[str, Any]:
    """Return what a training needs as JSON values; sizes are bytes on each device."""
    counts = ("num_videos", "num_stories", "num_readable", "num_scenes", "held_out", "rejects")
    return {
        "title": needs.recipe.title,
        "sizes": needs.origin,
        "data": pick(summary, *counts) if summary else None,
        **pick(needs, "num_devices", "strategy", "microbatch", "tokens_per_step", "flops_per_step"),
        **pick(needs.model, "num_parameters", "num_trained"),
        "batch_size": needs.recipe.batch_size,
        **pick(needs, "text_encoder_bytes", "vae_bytes", "encoding_bytes", "export_bytes"),
        "memory_bytes": {name: getattr(needs.memory, name) for name in (*_MEMORY, "total")},
    }


def _show_plan(needs: TrainingNeeds, summary: DataSummary | None) -> None:
    from m2d.cli.console import plain_text, show_fields, show_heading, show_hint
    from m2d.placement.prediction import flop_text

    recipe, of_model, memory = needs.recipe, needs.model, needs.memory
    show_heading(plain_text(recipe.title))
    share = f"{needs.num_devices} devices, {needs.strategy}" if needs.num_devices > 1 else "one device"
    show_fields(
        [
            ("data", plain_text(_data_in_words(recipe, summary))),
            ("sizes", needs.origin),
            ("parameters", f"{of_model.num_parameters:,}, of which {of_model.num_trained:,} are trained"),
            ("batch", f"{counted(recipe.batch_size, 'sample')}: {share}, {needs.microbatch} at once on each"),
            ("tokens", f"{needs.tokens_per_step:,} a step, {of_model.tokens:,} at once on each device"),
            ("operations", f"{flop_text(needs.flops_per_step)} a step, forward and backward"),
        ]
    )
    for reject in (summary.rejects if summary else ())[:_MOST_SHOWN]:
        show_hint(f"left out: {reject.place}: {reject.video.name} {reject.reason}")
    show_heading("Memory on each device")
    rows = {name: getattr(memory, name) for name in _MEMORY} | {"together": memory.total}
    show_fields([(name, f"{size_bytes / 2**30:8.2f} GiB") for name, size_bytes in rows.items()])
    show_heading("Before and after")
    text, vae, export = (
        f"{size_bytes / 2**30:.2f} GiB"
        for size_bytes in (needs.text_encoder_bytes, needs.vae_bytes, needs.export_bytes)
    )
    show_fields(
        [
            (
                "encoding",
                f"text encoder {text} in {recipe.precision}, VAE {vae}, before the transformer loads",
            ),
            ("export", f"{export} of the CPU's memory, nothing on the device"),
        ]
    )


def _data_in_words(recipe: TrainingRecipe, summary: DataSummary | None) -> str:
    data = recipe.data
    if data.is_puppet:
        return f"{data.num_stories:,} rendered stories, {data.held_out} held out"
    if summary is None:
        return f"{data.source}, not checked"
    left_out = f"; {len(summary.rejects)} left out" if summary.rejects else ""
    return (
        f"{data.source}: videos {summary.num_videos}, stories {summary.num_readable}, "
        f"scenes {summary.num_scenes}, stories held out {summary.held_out}{left_out}"
    )
