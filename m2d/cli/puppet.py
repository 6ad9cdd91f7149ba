"""`m2d puppet`: train parts of the embedded model, pack its folder, render training stories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2d.cli.options import QuietFlag, ResultJsonFlag
from m2d.errors import InputError
from m2d.limits import FASTEST_FPS, LARGEST_SEED, LARGEST_SIDE, MOST_THREADS

app = typer.Typer(
    help="Make the embedded models: VAE, text encoder, attribute classifier, and the world that they draw.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Recipe = Annotated[Path, typer.Argument(help="A recipe from recipes/training/.")]
Out = Annotated[Path, typer.Option(help="Run folder; a run with checkpoints is resumed.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Save and stop after this many minutes.")]
Threads = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="Number of CPU threads.")]


@app.command()
def train(
    part: Annotated[Literal["codec", "decoder", "text", "reader"], typer.Argument(help="Part to train.")],
    recipe: Recipe,
    out: Out,
    max_minutes: Minutes = None,
    threads: Threads = None,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train codec, its decoder on what a model makes, text encoder or reader."""
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.recipe.text_file import read_text

    reporter = make_reporter(quiet=quiet)
    # Check before the imports below, which take seconds.
    read_text(recipe)
    with loading_libraries(reporter):
        from m2d.tasks.puppet import PartPlan, train_part

    plan = PartPlan(part=part, recipe=recipe, run=out, max_minutes=max_minutes, num_threads=threads)
    _write("run", train_part(plan, reporter), as_json=as_json)


@app.command()
def pack(
    out: Annotated[Path, typer.Option(help="Model folder to write; an existing one is replaced.")],
    codec: Annotated[Path | None, typer.Option(help="Run folder of the codec.")] = None,
    text: Annotated[Path | None, typer.Option(help="Run folder of the text encoder.")] = None,
    base: Annotated[Path | None, typer.Option(help="Model folder that provides all other parts.")] = None,
    reader: Annotated[Path | None, typer.Option(help="Run folder of the reader.")] = None,
    transformer: Annotated[
        Path | None, typer.Option(help="Model folder of a finished training stage.")
    ] = None,
    change: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BEFORE AFTER", help="Add what a training changed between two model folders."),
    ] = None,
    recipes: Annotated[Path, typer.Option(help="Folder of the training recipes.")] = Path("recipes/training"),
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Put codec, text encoder, tokenizer, scheduler, and transformer and reader if given, into one folder."""
    from m2d.cli.console import make_reporter
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
        change=change,
        out=out,
    )
    _write("model", pack(plan, make_reporter(quiet=quiet)), as_json=as_json)


@app.command()
def render(
    stories: Annotated[int, typer.Option(min=1, max=10_000_000, help="Number of stories.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    format: Annotated[  # noqa: A002
        Literal["csv", "json", "jsonl"], typer.Option(help="Format of the description.")
    ] = "jsonl",
    scenes: Annotated[int, typer.Option(min=1, max=10_000, help="Scenes per story.")] = 3,
    frames: Annotated[int, typer.Option(min=2, max=100_000, help="Frames per scene.")] = 9,
    side: Annotated[int, typer.Option(min=16, max=LARGEST_SIDE, help="Height and width in pixels.")] = 64,
    upscale: Annotated[
        int, typer.Option(min=1, max=512, help="Integer factor that enlarges the written frames.")
    ] = 4,
    fps: Annotated[int, typer.Option(min=1, max=FASTEST_FPS, help="Frames per second.")] = 8,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the stories.")] = 1,
    hat: Annotated[
        list[str] | None, typer.Option(metavar="HAT=OTHER", help="Draw a hat as another one; repeatable.")
    ] = None,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Render stories as MP4 files, with a description for `m2d train`."""
    from m2d.cli.console import make_reporter
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
        file_format=format,
        hats=_hats(hat),
    )
    _write("dataset", render(plan, make_reporter(quiet=quiet)), as_json=as_json)


@app.command()
def film(
    out: Annotated[Path, typer.Option(help="Folder of the films.")],
    films: Annotated[int, typer.Option(min=1, max=100_000, help="Number of films.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Length of each film.")] = 3.0,
    fps: Annotated[int, typer.Option(min=2, max=FASTEST_FPS, help="Frames per second.")] = 12,
    varying: Annotated[bool, typer.Option("--varying", help="Vary the frame rate.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the films.")] = 1,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Render long films with known cuts, dissolves, flashes and returning actors, and their captions.

    `m2d data build` makes a data set of them; the truth lies beside each film.
    """
    from m2d.cli.console import make_reporter, write_json, write_result
    from m2d.puppet.film_files import FilmPlan
    from m2d.tasks.render import render_long_films

    plan = FilmPlan(out=out, num_films=films, minutes=minutes, fps=fps, varying=varying, seed=seed)
    paths = render_long_films(plan, make_reporter(quiet=quiet))
    if as_json:
        write_json({"films": paths})
        return
    for path in paths:
        write_result(path)


def _write(name: str, path: Path, *, as_json: bool) -> None:
    from m2d.cli.console import write_json, write_result

    if as_json:
        write_json({name: path})
    else:
        write_result(path)


def _hats(texts: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or ()]
    wrong = [hat for hat, equals, other in pairs if not (hat and equals and other)]
    if wrong:
        raise InputError(f"--hat {wrong[0]!r}: use HAT=OTHER, such as 'party hat=crown'")
    return {hat: other for hat, _, other in pairs}
