"""`m2d check`: what a recipe would do, before it does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from m2d.recipe.plan import RunPlan, ScenePlan
    from m2d.tasks.check import CheckReport

# Wider pictures do not fit a terminal, and say little.
_LARGEST_PICTURE = 24


def check(
    recipe: Annotated[Path, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A model folder, or builtin:puppet.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the plan as JSON to stdout.")] = False,
) -> None:
    """Show what a story will do.

    Expanded prompts and their tokens, the mask, frames, length and file size. Makes nothing.
    """
    from m2d.cli.console import make_reporter, show_gap, write_result
    from m2d.tasks.check import check as check_recipe

    report = check_recipe(recipe, model=model)
    if as_json:
        write_result(json.dumps(_document(report), indent=2))
        return
    _show(report)
    show_gap()
    reporter = make_reporter(quiet=True)
    for warning in report.warnings:
        reporter.warn(warning)


def _show(report: CheckReport) -> None:
    from m2d.cli.console import show_fields, show_heading, show_mask

    plan = report.plan
    show_heading(plan.title)
    show_fields(_summary(report))
    for number, scene in enumerate(plan.scenes, start=1):
        show_heading(f"Scene {number}")
        show_fields(_scene_rows(plan, scene))
    if len(plan.layout.segments) <= _LARGEST_PICTURE:
        show_heading(f"Mask {plan.layout.mask}: rows see columns, T text, V video")
        show_mask(plan.layout.picture())


def _summary(report: CheckReport) -> list[tuple[str, str]]:
    from m2d.cli.console import format_size

    plan, layout = report.plan, report.plan.layout
    size = f"{plan.scene_geometry.width * plan.upscale}x{plan.scene_geometry.height * plan.upscale}"
    frames = f"{len(plan.scenes)} scenes of {plan.scene_geometry.num_frames} frames"
    sampling = plan.sampling
    share = f"{report.attention_share:.1%} of full attention's work"
    return [
        ("model", plan.source.name),
        ("film", f"{plan.output}, about {format_size(plan.predicted_size_bytes)}"),
        ("length", f"{frames}, {plan.duration_s:.1f} s at {plan.fps} fps"),
        ("picture", f"{_model_size(plan)}, written as {size}" if plan.upscale > 1 else _model_size(plan)),
        ("sampling", f"{sampling.scheduler or 'model default'}, {sampling.num_inference_steps} steps"),
        ("backend", f"{plan.backend} on {plan.device} in {plan.dtype}"),
        ("tokens", f"{layout.num_text_tokens} text and {layout.num_video_tokens} video tokens"),
        ("attention", f"mask {layout.mask}: {report.num_attention_calls} calls per layer, {share}"),
    ]


def _scene_rows(plan: RunPlan, scene: ScenePlan) -> list[tuple[str, str]]:
    tokens = f"{scene.num_prompt_tokens} of {plan.source.geometry.max_text_tokens}"
    rows = [("prompt", scene.prompt)]
    if scene.negative_prompt:
        rows.append(("negative", scene.negative_prompt))
    rows.append(("tokens", f"{tokens}   guidance {scene.guidance_scale:g}   seed {scene.seed}"))
    return rows


def _model_size(plan: RunPlan) -> str:
    return f"{plan.scene_geometry.width}x{plan.scene_geometry.height}"


def _document(report: CheckReport) -> dict[str, Any]:
    plan, layout = report.plan, report.plan.layout
    return {
        "title": plan.title,
        "model": plan.source.name,
        "output": str(plan.output),
        "num_frames": plan.num_frames,
        "duration_s": plan.duration_s,
        "fps": plan.fps,
        "width": plan.scene_geometry.width,
        "height": plan.scene_geometry.height,
        "upscale": plan.upscale,
        "predicted_size_bytes": plan.predicted_size_bytes,
        "sampling": plan.sampling.model_dump(mode="json"),
        "backend": {"name": plan.backend, "device": plan.device, "dtype": plan.dtype},
        "scenes": [
            {
                "prompt": scene.prompt,
                "negative_prompt": scene.negative_prompt,
                "num_prompt_tokens": scene.num_prompt_tokens,
                "max_text_tokens": plan.source.geometry.max_text_tokens,
                "guidance_scale": scene.guidance_scale,
                "seed": scene.seed,
                "num_frames": scene.num_frames,
            }
            for scene in plan.scenes
        ],
        "layout": {
            "mask": layout.mask,
            "digest": layout.digest(),
            "num_text_tokens": layout.num_text_tokens,
            "num_video_tokens": layout.num_video_tokens,
            "segments": [segment.label for segment in layout.segments],
            "may_attend": layout.may_attend.astype(int).tolist(),
            "num_attention_calls": report.num_attention_calls,
            "attention_share": report.attention_share,
        },
        "warnings": list(report.warnings),
    }
