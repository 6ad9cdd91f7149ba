"""`m2d data`: build a data set from films, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2d.cli.options import QuietFlag, ReportJsonFlag, ResultJsonFlag, SetOption
from m2d.limits import FASTEST_FPS, MOST_THREADS

app = typer.Typer(help="Build data sets from films.", no_args_is_help=True, rich_markup_mode=None)

Films = Annotated[Path | None, typer.Argument(metavar="[FILMS]", help="A folder of films, or one film.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder of the data set.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file with settings.")]
Workers = Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Number of processes.")]
ClusterOption = Annotated[
    Literal["ray"] | None,
    typer.Option("--cluster", help="Work on the Ray cluster of RAY_ADDRESS instead, or on one started here."),
]
_MOST_EXAMPLES = 5
_STAGES = {
    "scan": "Find films: probe every file, list what cannot be read.",
    "clips": "Divide films into ranges of ten minutes.",
    "shots": "Decode every range once and divide it at its cuts.",
    "filter": "Drop short, black, still, bordered, blurred and repeated shots.",
    "relate": "Find shots that follow each other and belong together.",
    "caption": "Write a caption for every shot of a group.",
    "pack": "Write the data set for `m2d train`.",
    "report": "Write the HTML page.",
}


def _add(name: str, stages: tuple[str, ...], summary: str) -> None:
    def run(
        films: Films = None,
        out: Out = Path("set"),
        config: Config = None,
        settings: SetOption = None,
        workers: Workers = 1,
        cluster: ClusterOption = None,
        as_json: ResultJsonFlag = False,
        quiet: QuietFlag = False,
    ) -> None:
        from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result

        reporter = make_reporter(quiet=quiet)
        with loading_libraries(reporter):
            from m2d.recipe.settings import parse_settings
            from m2d.tasks.data import BuildPlan, build
        plan = BuildPlan(
            folder=out,
            films=films,
            config=config,
            settings=parse_settings(settings or []),
            stages=stages,
            workers=workers,
            cluster=cluster,
        )
        result = build(plan, reporter)
        if as_json:
            write_json(result)
        else:
            write_result(result.page or result.folder)

    app.command(name, help=summary)(run)


_add(
    "build",
    tuple(_STAGES),
    f"Build a data set: {', '.join(_STAGES)}.\n\n"
    "What an interrupted run has finished is not repeated. Settings of earlier runs are kept.",
)
for stage_name, stage_summary in _STAGES.items():
    _add(stage_name, (stage_name,), f"{stage_summary} One stage of `m2d data build`.")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A built data set.")],
    number: Annotated[
        int,
        typer.Argument(metavar="GROUP", min=0, max=1_000_000_000, help="Number of the group on the page."),
    ],
    as_json: ReportJsonFlag = False,
) -> None:
    """Show the shots and captions of one group; the page plays it at #group-GROUP."""
    from m2d.cli.console import plain_text, show_fields, show_heading, write_json
    from m2d.tasks.data import show_group

    group = show_group(folder, number)
    if as_json:
        write_json(group)
        return
    show_heading(f"group {group.number}")
    for shot in group.shots:
        similar = f" (similarity {shot.relevance})" if shot.relevance else ""
        show_fields([(f"{plain_text(shot.name)}{similar}", plain_text(shot.caption))])


@app.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="DATA", help="Any data set that `m2d train` reads.")],
    frames: Annotated[int, typer.Option(min=1, max=100_000, help="Frames of a training clip.")] = 9,
    fps: Annotated[
        int, typer.Option(min=1, max=FASTEST_FPS, help="Frames per second of a training clip.")
    ] = 8,
    workers: Workers = 1,
    as_json: ReportJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check a data set before training: decode its videos, and count what each rule would leave out."""
    from m2d.cli.console import (
        loading_libraries,
        make_reporter,
        plain_text,
        show_fields,
        show_hint,
        write_json,
    )

    reporter = make_reporter(quiet=quiet)
    with loading_libraries(reporter):
        from m2d.tasks.data import check_data
    counts = check_data(source, num_frames=frames, fps=fps, workers=workers, reporter=reporter)
    if as_json:
        write_json({"rules": counts})
        return
    show_fields([(each.rule, f"{each.num_dropped} of {each.num_shots} left out") for each in counts])
    for each in counts:
        for example in each.examples[:_MOST_EXAMPLES]:
            show_hint(plain_text(example))
        if len(each.examples) > _MOST_EXAMPLES:
            show_hint(f"and {len(each.examples) - _MOST_EXAMPLES} more; --json gives all")
