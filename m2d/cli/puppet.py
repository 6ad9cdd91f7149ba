"""`m2d puppet`: train the embedded model's helpers, pack its folder, render its world."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Make the embedded model: codec, text encoder, reader, and the world they know.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Recipe = Annotated[Path, typer.Argument(help="A recipe from recipes/training/.")]
Out = Annotated[Path, typer.Option(help="Run folder; a run that has checkpoints goes on.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Stop, and save, after so long.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only.")]


class Helper(StrEnum):
    """What can be trained for the puppet theatre besides the transformer."""

    CODEC = "codec"
    DECODER = "decoder"
    TEXT = "text"
    READER = "reader"


class DatasetFormat(StrEnum):
    """How a dataset is described."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


@app.command()
def train(
    part: Annotated[Helper, typer.Argument(help="Which helper.")],
    recipe: Recipe,
    out: Out,
    max_minutes: Minutes = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train codec, its decoder on what a model makes, text encoder or reader."""
    from m2d.cli.console import make_reporter, plain_text, write_result
    from m2d.tasks.puppet import PartPlan, train_part

    plan = PartPlan(part=part.value, recipe=recipe, run=out, max_minutes=max_minutes, num_threads=threads)
    write_result(plain_text(str(train_part(plan, make_reporter(quiet=quiet)))))


@app.command()
def pack(
    out: Annotated[Path, typer.Option(help="The model folder to write; an old one is replaced.")],
    codec: Annotated[Path | None, typer.Option(help="Run folder of the codec.")] = None,
    text: Annotated[Path | None, typer.Option(help="Run folder of the text encoder.")] = None,
    base: Annotated[Path | None, typer.Option(help="Model folder to take all other parts from.")] = None,
    reader: Annotated[Path | None, typer.Option(help="Run folder of the reader.")] = None,
    transformer: Annotated[Path | None, typer.Option(help="Model folder of a finished stage.")] = None,
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes.")] = Path("recipes/training"),
    quiet: Quiet = False,
) -> None:
    """Put codec, text encoder, tokenizer, scheduler, and transformer and reader if given, into one folder."""
    from m2d.cli.console import make_reporter, plain_text, write_result
    from m2d.puppet.training.pack import PackPlan
    from m2d.tasks.puppet import pack

    plan = PackPlan(
        vae_recipe=recipes / "puppet-codec.yaml",
        vae_run=codec,
        text_recipe=recipes / "puppet-text.yaml",
        text_run=text,
        base=base,
        classifier_run=reader,
        transformer=transformer,
        out=out,
    )
    write_result(plain_text(str(pack(plan, make_reporter(quiet=quiet)))))


@app.command()
def render(
    stories: Annotated[int, typer.Option(min=1, help="How many stories.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    format: Annotated[DatasetFormat, typer.Option(help="How it is described.")] = DatasetFormat.JSONL,  # noqa: A002
    scenes: Annotated[int, typer.Option(min=1, help="Scenes per story.")] = 3,
    frames: Annotated[int, typer.Option(min=2, help="Frames per scene.")] = 9,
    side: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    upscale: Annotated[int, typer.Option(min=1, help="How many times larger the files are.")] = 4,
    fps: Annotated[int, typer.Option(min=1, help="Frames per second.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Which stories.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Write stories as MP4 files with a description that `m2d train` reads."""
    from m2d.cli.console import make_reporter, plain_text, write_result
    from m2d.puppet.dataset_files import RenderPlan
    from m2d.tasks.render import render

    plan = RenderPlan(
        out=out,
        num_stories=stories,
        num_scenes=scenes,
        num_frames=frames,
        side=side,
        upscale=upscale,
        fps=fps,
        seed=seed,
        file_format=format.value,
    )
    write_result(plain_text(str(render(plan, make_reporter(quiet=quiet)))))
