"""`m2d generate`: a story becomes a film."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from m2d.progress import Reporter
    from m2d.recipe.plan import RunPlan
    from m2d.tasks.generate import GenerateResult


def generate(
    recipe: Annotated[Path, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="The film, instead of the recipe's output."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A model folder, or builtin:puppet.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The story's seed.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Denoising steps.")] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="NAME", help="What runs the transformer; see `m2d doctor`."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Where it runs: cpu, cuda, cuda:1.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing film.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")
    ] = False,
) -> None:
    """Turn a story into a film.

    Writes NAME.mp4, and NAME.m2d/ beside it: how it was made, its latents, a contact sheet. Options override
    the recipe. The film's path goes to stdout, everything else to stderr.
    """
    from m2d.cli.console import make_reporter, plain_text, write_result
    from m2d.recipe.plan import Overrides
    from m2d.tasks.check import plan_recipe

    overrides = Overrides(
        out=out, seed=seed, num_inference_steps=steps, backend=backend, device=device, dtype=dtype
    )
    began_s = time.monotonic()
    plan = plan_recipe(recipe, model=model, overrides=overrides)
    reporter = make_reporter(quiet=quiet)
    result = _run(plan, reporter, force=force, quiet=quiet)
    if not quiet:
        _show(result, spent_s=time.monotonic() - began_s)
    write_result(json.dumps(_document(plan, result), indent=2) if as_json else plain_text(str(result.film)))


def _run(plan: RunPlan, reporter: Reporter, *, force: bool, quiet: bool) -> GenerateResult:
    from m2d.cli.console import show_gap, show_heading
    from m2d.registry import get_backend
    from m2d.tasks.outputs import check_outputs

    # Before the import below, which takes seconds: what is in the way should be told at once.
    check_outputs(plan.output, force=force)
    backend = get_backend(plan.backend)
    if not quiet:
        show_heading(_headline(plan), stderr=True)
        show_gap()
    with reporter.stage("load libraries"):
        from m2d.tasks import generate as task
    return task.run(plan, backend, reporter=reporter, force=force)


def _headline(plan: RunPlan) -> str:
    return f"{plan.title}: {len(plan.scenes)} scenes, {plan.source.name} with {plan.backend} on {plan.device}"


def _show(result: GenerateResult, *, spent_s: float) -> None:
    from m2d.cli.console import format_seconds, format_size, show_fields, show_gap

    show_gap()
    length = f"{result.num_frames} frames, {result.num_frames / result.fps:.1f} s"
    show_fields(
        [
            ("film", f"{length}, {result.width}x{result.height}, {format_size(result.size_bytes)}"),
            ("beside it", f"{result.run_folder}/  run.json, latents.safetensors, sheet.png"),
            ("frames", f"sha256 {result.frames_sha256[:16]}, made in {format_seconds(spent_s)}"),
        ],
        stderr=True,
    )


def _document(plan: RunPlan, result: GenerateResult) -> dict[str, Any]:
    return {
        "film": str(result.film),
        "run_folder": str(result.run_folder),
        "title": plan.title,
        "num_scenes": len(plan.scenes),
        "num_frames": result.num_frames,
        "fps": result.fps,
        "width": result.width,
        "height": result.height,
        "size_bytes": result.size_bytes,
        "frames_sha256": result.frames_sha256,
        "timings_s": dict(result.timings_s),
        "warnings": list(plan.warnings),
    }
