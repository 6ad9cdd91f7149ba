"""`m2d check`: show the plan of a run without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2d.cli.model_options import ModelOptions, with_options
from m2d.cli.options import (
    FieldsAndValue,
    LoraOption,
    SetOption,
    StoriesArgument,
    parse_loras,
    settings_beside,
)
from m2d.cli.results import pick
from m2d.errors import BackendUnavailable
from m2d.video.printable import counted

if TYPE_CHECKING:
    from m2d.pipeline.placing import Prediction
    from m2d.recipe.plan import RunPlan, ScenePlan, WindowPlan
    from m2d.tasks.check import CheckReport, WindowReport
    from m2d.windows import Window

# Wider pictures do not fit a terminal.
_LARGEST_PICTURE = 24
_COLUMNS = ("made", "tokens", "attention per layer")


@with_options(ModelOptions)
def check(
    recipes: StoriesArgument,
    lora: LoraOption = None,
    settings: SetOption = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="Predict time and memory on this card: 'RTX 4090'."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the plan as JSON to stdout.")] = False,
    *,
    options: ModelOptions,
) -> None:
    """Show the plan of stories without making a film.

    Lists the scenes of each window, transitions, expanded prompts with their token counts, the mask, the
    length and the file size. For a model folder, and with --gpu, predicts operations, time and peak memory of
    every stage, and the memory mode; exits with 3 if none fits this machine. A published model of a hub that
    is not here is predicted by its sizes. With --json, several stories are
    a list named `stories`.
    """
    from m2d.cli.console import make_reporter, show_gap, write_json
    from m2d.cli.stories import stories_of
    from m2d.recipe.overrides import Overrides
    from m2d.tasks.batch import plan_stories
    from m2d.tasks.check import report_on

    flags: dict[str, FieldsAndValue] = {"--model": (["model"], options.model), "--lora": (["loras"], lora)}
    overrides = Overrides(
        settings=settings_beside(settings, flags),
        loras=parse_loras(lora),
        device=None if gpu is None else "cuda",
        published=True,
    )
    stories = stories_of(recipes, (), overrides.settings)
    plans = plan_stories(stories, model=options.choice, overrides=overrides)
    reports = [report_on(plan, gpu=gpu) for plan in plans]
    if as_json:
        documents = [_document(report) for report in reports]
        write_json(documents[0] if len(documents) == 1 else {"stories": documents})
    else:
        reporter = make_reporter(quiet=True)
        for report in reports:
            _show(report)
            show_gap()
            for warning in report.warnings:
                reporter.warn(warning)
    refusals = dict.fromkeys(report.refusal for report in reports if report.refusal)
    if refusals:
        raise BackendUnavailable("\n".join(refusals))


def _show(report: CheckReport) -> None:
    from m2d.cli.console import show_columns, show_fields, show_heading, show_mask

    plan = report.plan
    show_heading(plan.title)
    show_fields(_summary(plan))
    show_heading("Windows")
    groups = _alike(report.windows)
    show_columns("scenes", _COLUMNS, [(_span(_targets(group)), _window_cells(group)) for group in groups])
    if report.prediction is not None:
        _show_prediction(report.prediction)
    show_heading("Scenes")
    show_fields([row for number in range(len(plan.scenes)) for row in _scene_rows(plan, number)])
    for heading, part in _pictures(report):
        show_heading(heading)
        show_mask(_picture(part))


def _show_prediction(prediction: Prediction) -> None:
    from m2d.cli.console import format_seconds, show_columns, show_heading
    from m2d.placement.prediction import flop_text, gib

    choice = prediction.choice
    fits = "fits" if choice.is_fitting else "does not fit"
    show_heading(
        f"Predicted on {prediction.target.name}: memory {choice.memory}, decode {choice.decode}, {fits}"
    )
    rows = [
        (
            stage.name,
            (
                flop_text(stage.flops),
                format_seconds(stage.seconds),
                gib(stage.peak_bytes),
            ),
        )
        for stage in prediction.stages
    ]
    show_columns("stage", ("operations", "time", "peak memory"), rows)


def _written(plan: RunPlan) -> str:
    factor, shape = plan.upscale, plan.scene_geometry
    if factor == 1:
        return ""
    hard = " with hard pixels" if plan.upscale_filter == "nearest" else ""
    return f", written as {shape.width * factor}x{shape.height * factor}{hard}"


def _summary(plan: RunPlan) -> list[tuple[str, str]]:
    from m2d.cli.console import format_size

    width, height = plan.scene_geometry.width, plan.scene_geometry.height
    sampling, common = plan.sampling, _common_facts(plan.scenes)
    passes = "one window" if len(plan.windows) == 1 else f"each of {len(plan.windows)} windows"
    scheduler = sampling.scheduler or "model default"
    steps = f"{scheduler}, {counted(sampling.num_inference_steps, 'step')} in {passes}"
    parts = ["dynamic guidance"] * sampling.dynamic_guidance
    parts += [common[name] for name in ("guidance", "seed", "colours") if common.get(name)]
    rows = [
        ("model", plan.source.name),
        *((name.replace("_", " "), place) for name, place in plan.source.choice.parts.items()),
        *(("LoRA", str(choice)) for choice in plan.recipe.loras),
        ("film", f"{plan.output}, about {format_size(plan.predicted_size_bytes)}"),
        ("length", _length(plan, common)),
        ("picture", f"{width}x{height}{_written(plan)}"),
        ("sampling", ", ".join([steps, *parts])),
    ]
    if common.get("negative"):
        rows.append(("negative", common["negative"]))
    return [*rows, ("backend", f"{plan.backend} on {plan.device} in {plan.dtype}")]


def _length(plan: RunPlan, common: dict[str, str]) -> str:
    scenes = counted(len(plan.scenes), "scene")
    each = f" of {common['frames']}" if "frames" in common else ""
    shared = sum(scene.join.num_frames for scene in plan.scenes)
    crossfades = f" (crossfades share {shared})" if shared else ""
    total = counted(plan.num_frames, "frame")
    return f"{scenes}{each}: {total}{crossfades}, {plan.duration_s:.1f} s at {plan.fps} fps"


def _facts(scene: ScenePlan) -> dict[str, str]:
    """Return the settings in which scenes may differ, in words; empty for a setting not in use."""
    return {
        "frames": counted(scene.num_frames, "frame"),
        "guidance": f"guidance {scene.guidance_scale:g}",
        "seed": f"seed {scene.seed}",
        "colours": "colours matched" if scene.match_colour else "",
        "negative": scene.negative_prompt,
    }


def _common_facts(scenes: Sequence[ScenePlan]) -> dict[str, str]:
    """Return the settings that are equal in all scenes and need no mention in each."""
    facts = [_facts(scene) for scene in scenes]
    return {name: text for name, text in facts[0].items() if all(each[name] == text for each in facts)}


def _alike(windows: Sequence[WindowReport]) -> list[list[WindowReport]]:
    """Group neighbouring windows that differ only in their scenes."""
    alike = groupby(windows, key=lambda each: (len(each.part.window.context), each.part.layout))
    return [list(group) for _, group in alike]


def _targets(group: Sequence[WindowReport]) -> list[int]:
    return [scene for each in group for scene in each.part.window.targets]


def _window_cells(group: Sequence[WindowReport]) -> tuple[str, str, str]:
    first = group[0]
    layout = first.part.layout
    return (
        # The first of them may follow scenes 1 and 2, which says nothing of the others.
        _made(group[-1].part.window, is_repeated=len(group) > 1),
        f"{layout.num_text_tokens} text, {layout.num_video_tokens} video",
        f"{counted(first.num_attention_calls, 'call')}, {first.attention_share:.1%} of full",
    )


def _made(window: Window, *, is_repeated: bool) -> str:
    if not window.context:
        return "jointly" if len(window.targets) > 1 else "each alone" if is_repeated else "alone"
    first, *last = window.context
    if last and last[0] > first + 1:
        if is_repeated:
            return f"after first and last{f' {len(last)}' if len(last) > 1 else ''}"
        return f"after scenes {first + 1} and {_span(last)}"
    num_context = len(window.context)
    if is_repeated:
        return f"each after the last {num_context if num_context > 1 else 'one'}"
    return f"after scene{'s' * (num_context > 1)} {_span(window.context)}"


def _scene_rows(plan: RunPlan, number: int) -> list[tuple[str, str]]:
    scene, common = plan.scenes[number], _common_facts(plan.scenes)
    most = plan.source.geometry.max_text_tokens
    own = {name: text for name, text in _facts(scene).items() if name not in common and text}
    negative = own.pop("negative", "")
    if not number:
        # No scene before it has colours to match.
        own.pop("colours", None)
    parts = [
        f"from {_first_frame(plan, number) / plan.fps:.1f} s",
        _joined(scene, number),
        f"starts from {scene.image.path.name}" if scene.image is not None else "",
        *own.values(),
        "" if scene.num_prompt_tokens is None else f"{scene.num_prompt_tokens} of {most} tokens",
    ]
    rows = [(str(number + 1), scene.prompt)]
    if negative:
        rows.append(("", f"without: {negative}"))
    return [*rows, ("", ", ".join(filter(None, parts)))]


def _joined(scene: ScenePlan, number: int) -> str:
    if scene.join.kind == "crossfade":
        return f"crossfades from scene {number} over {counted(scene.join.num_frames, 'frame')}"
    return f"continues scene {number}" if scene.join.kind == "continue" else ""


def _first_frame(plan: RunPlan, number: int) -> int:
    """Return the film's frame at which the scene starts."""
    before = sum(scene.num_frames for scene in plan.scenes[:number])
    return before - sum(scene.join.num_frames for scene in plan.scenes[: number + 1])


def _pictures(report: CheckReport) -> list[tuple[str, WindowPlan]]:
    """Return the first window and, if its mask differs, the first of the last group, with their headings."""
    groups = _alike(report.windows)
    first, last = groups[0][0].part, groups[-1][0].part
    found = [(f"Mask {first.layout.mask}: rows see columns, T text, V video", first)]
    if len(groups) > 1:
        number, *others = _targets(groups[-1])
        same = f", same for {_span(others)}" if others else ""
        found.append((f"Mask for scene {number + 1}{same}: * is clean context", last))
    return [(heading, part) for heading, part in found if len(part.layout.segments) <= _LARGEST_PICTURE]


def _picture(part: WindowPlan) -> tuple[str, ...]:
    """Draw the mask: `#` where the row's segment attends to the column's; `*` marks clean context."""
    scenes, context = part.window.scenes, part.window.context
    labels = [
        replace(segment, scene=scenes[segment.scene]).label + "*" * (scenes[segment.scene] in context)
        for segment in part.layout.segments
    ]
    width = max(map(len, labels))
    rows = [["", *labels]]
    rows += [
        [label, *("#" if sees else "." for sees in row)]
        for label, row in zip(labels, part.layout.may_attend, strict=True)
    ]
    return tuple(" ".join(cell.ljust(width) for cell in row).rstrip() for row in rows)


def _span(scenes: Sequence[int]) -> str:
    """Return `4` or `4-12`, counted from 1."""
    first, last = scenes[0] + 1, scenes[-1] + 1
    return str(first) if first == last else f"{first}-{last}"


def _document(report: CheckReport) -> dict[str, Any]:
    """Return the plan as JSON values; scenes are counted from 1."""
    plan = report.plan
    return {
        **pick(plan, "title", "output", "num_frames", "duration_s", "fps", "upscale", "predicted_size_bytes"),
        **pick(plan.scene_geometry, "width", "height"),
        "model": plan.source.name,
        "parts": plan.source.choice.parts,
        "loras": [choice.model_dump(mode="json") for choice in plan.recipe.loras],
        "sampling": plan.sampling.model_dump(mode="json"),
        "mask": plan.recipe.mask,
        "backend": {"name": plan.backend, "device": plan.device, "dtype": plan.dtype},
        "prediction": None if report.prediction is None else report.prediction.record(),
        "scenes": [_scene_document(plan, number) for number in range(len(plan.scenes))],
        "windows": [_window_document(window) for window in report.windows],
        "warnings": report.warnings,
    }


def _scene_document(plan: RunPlan, number: int) -> dict[str, Any]:
    scene = plan.scenes[number]
    return {
        "number": number + 1,
        **pick(scene, "prompt", "negative_prompt", "num_prompt_tokens", "guidance_scale", "seed"),
        **pick(scene, "num_frames", "match_colour"),
        "max_text_tokens": plan.source.geometry.max_text_tokens,
        "num_latent_frames": scene.geometry.num_latent_frames,
        "image": None if scene.image is None else scene.image.path,
        "first_frame": _first_frame(plan, number),
        "join": scene.join.kind,
        "overlap": scene.join.num_frames,
    }


def _window_document(report: WindowReport) -> dict[str, Any]:
    window, layout = report.part.window, report.part.layout
    return {
        "scenes": [scene + 1 for scene in window.scenes],
        "targets": [scene + 1 for scene in window.targets],
        "context": [scene + 1 for scene in window.context],
        "layout": {
            **pick(layout, "mask", "num_text_tokens", "num_video_tokens"),
            **pick(report, "num_attention_calls", "attention_share"),
            "digest": layout.digest(),
            "segments": [segment.label for segment in layout.segments],
            "may_attend": layout.may_attend.astype(int).tolist(),
        },
    }
