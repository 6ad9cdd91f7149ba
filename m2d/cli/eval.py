"""`m2d eval`: measure videos and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2d.cli.completion import film_files
from m2d.cli.options import QuietFlag, ResultJsonFlag
from m2d.errors import EXIT_FAILED, InputError

if TYPE_CHECKING:
    from m2d.evaluation.report import Report

_SHOWN = (
    *("visual", "semantic", "sequence", "cross_talk", "prompt_recall_1", "prompt_auc", "scene_auc"),
    *("cut_accuracy", "colour_jump", "smoothness"),
)
EmbedderOption = Annotated[
    Literal["auto", "puppet", "natural", "viclip", "clip", "dino", "videomae", "none"],
    typer.Option(help="Networks of the scores; auto: puppet for films of the embedded models."),
]
EmbedderModelOption = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Weights of viclip, clip, dino or videomae, or their hub name."),
]


def evaluate(
    videos: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEO_OR_FOLDER...",
            help="Films, folders of videos, or run folders; NAME-scene-1.mp4 and so on are one story.",
            autocompletion=film_files,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the report.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Folder of as many clips, for Frechet and kernel distances."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A recipe, a folder of recipes, or JSON as in Figure 5; default: the films' own."),
    ] = None,
    embedder: EmbedderOption = "auto",
    embedder_model: EmbedderModelOption = None,
    export: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="Also write the scenes for vbench, entitybench or msvbench."),
    ] = "",
    watch: Annotated[
        bool,
        typer.Option("--watch", help="VIDEO_OR_FOLDER is a training: evaluate its validation films."),
    ] = False,
    device: Annotated[
        str, typer.Option(help="Device of networks of real videos: cpu, cuda, cuda:1.")
    ] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure videos: consistency, prompts, cuts, drift, and distance from a reference.

    Writes results.json, report.md and index.html. Videos that cannot be read are listed and the others are
    measured; the exit code is then 1. With --watch, the validation films of a training are evaluated step by
    step until it ends, for metrics.jsonl and TensorBoard.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json, write_result

    reporter = make_reporter(quiet=quiet)
    with loading_libraries(reporter):
        from m2d.evaluation import report as reports
        from m2d.evaluation.evaluate import EvalPlan
        from m2d.tasks.eval import evaluate_videos

    plan = EvalPlan(
        paths=tuple(videos),
        reference=reference,
        prompts=prompts,
        out=out,
        embedder=embedder,
        embedder_model=embedder_model,
        exports=tuple(name.strip() for name in export.split(",") if name.strip()),
        device=device,
        force=force,
    )
    if watch and force:
        raise InputError("steps that are evaluated stay; choose another folder", argument="force")
    if watch:
        from m2d.tasks.eval_watch import METRICS, watch_training

        rows = watch_training(plan, reporter)
        write_json({"steps": rows}) if as_json else write_result(plan.out / METRICS)
        return
    result = evaluate_videos(plan, reporter)
    if not quiet:
        _show(result.report)
    if as_json:
        write_json({"report": result.out} | reports.as_json(result.report))
    else:
        write_result(result.out)
    if result.report.left_out:
        raise typer.Exit(EXIT_FAILED)


def _show(report: Report) -> None:
    from m2d.cli.console import show_fields, show_gap
    from m2d.evaluation.report import basis, direction, figure_title, interval_text

    rows = []
    for name, figure in report.figures.items():
        if name not in _SHOWN:
            continue
        measured = basis(report, name)
        words = [
            f"{figure.value:.4g}",
            interval_text(figure),
            figure_title(name, figure),
            direction(name),
            f"({measured})" if measured else "",
        ]
        rows.append((name.replace("_", " "), "  ".join(word for word in words if word)))
    distance = report.distance
    if distance is not None:
        floor = distance.frechet_floor.value
        halves = f"halves of the reference, {distance.num_clips // 2} clips each: {floor:.4g}"
        rows.append(("Frechet distance", f"{distance.frechet:.4g}  smaller is better; {halves}"))
    get_lpips = "; get it with `m2d models get lpips`"
    rows += [("not measured", note + get_lpips * ("lpips" in note)) for note in report.notes]
    show_gap()
    show_fields(rows, stderr=True)
