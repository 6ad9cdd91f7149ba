"""`m2d bench`: how long a step of a story takes on each backend."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from m2d.tasks.bench import BackendTiming, BenchReport


def bench(
    recipe: Annotated[Path, typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.")],
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Time this one; may be repeated. Default: eager."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A model folder, or builtin:puppet.")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", metavar="N", help="Paired runs of each backend.")] = 9,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Where it runs: cpu, cuda, cuda:1.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON to stdout.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")
    ] = False,
) -> None:
    """Time one denoising step on backends, against eager in the same run.

    Runs take turns; what counts is the ratio of neighbours, and no difference below the noise is claimed.
    """
    from m2d.cli.console import make_reporter, write_result
    from m2d.recipe.plan import Overrides
    from m2d.registry import get_backend
    from m2d.tasks.check import plan_recipe

    plan = plan_recipe(recipe, model=model, overrides=Overrides(device=device, dtype=dtype))
    reporter = make_reporter(quiet=quiet)
    with reporter.stage("load libraries"):
        from m2d.tasks import bench as task
    report = task.run(
        plan, backend or ["eager"], find_backend=get_backend, reporter=reporter, num_pairs=pairs
    )
    if as_json:
        write_result(json.dumps(_document(report), indent=2))
    else:
        _show(report)


def _show(report: BenchReport) -> None:
    from m2d.cli.console import show_fields, show_heading

    plan = report.plan
    show_heading(f"{plan.title}: one step on {plan.device} in {plan.dtype}")
    show_fields([("tokens", f"{report.num_tokens}, batch of {report.batch_size}")])
    show_fields([(timing.name, _line(timing)) for timing in report.timings])


def _line(timing: BackendTiming) -> str:
    result = timing.comparison
    ratios = result.ratios
    return (
        f"{ratios.median:.3f} of eager's time ({ratios.smallest:.3f} to {ratios.largest:.3f}, noise "
        f"{result.noise_floor:.3f}): {result.verdict}; {result.seconds[0]:.3f} s a step, "
        f"differs by {timing.relative_difference:.1e}"
    )


def _document(report: BenchReport) -> dict[str, Any]:
    plan = report.plan
    return {
        "title": plan.title,
        "model": {"name": plan.source.name, "digest": plan.source.digest},
        "device": plan.device,
        "dtype": plan.dtype,
        "num_tokens": report.num_tokens,
        "batch_size": report.batch_size,
        "versions": dict(report.versions),
        "backends": [
            {
                "name": timing.name,
                **asdict(timing.comparison),
                "noise_floor": timing.comparison.noise_floor,
                "verdict": timing.comparison.verdict,
                "relative_difference": timing.relative_difference,
            }
            for timing in report.timings
        ],
    }
