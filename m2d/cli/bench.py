"""`m2d bench`: time a denoising step of a story on each backend."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2d.cli.model_options import ModelOptions, with_options
from m2d.cli.options import (
    ArtifactsOption,
    DeviceOption,
    DtypeOption,
    QuietFlag,
    ReportJsonFlag,
    StoryArgument,
)
from m2d.cli.results import pick

if TYPE_CHECKING:
    from m2d.tasks.bench import BackendTiming, BenchReport


@with_options(ModelOptions)
def bench(
    recipe: StoryArgument,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Backend to time; repeatable. Default: eager."),
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", metavar="N", help="Number of paired runs of each backend.")
    ] = 9,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    artifacts: ArtifactsOption = None,
    as_json: ReportJsonFlag = False,
    quiet: QuietFlag = False,
    *,
    options: ModelOptions,
) -> None:
    """Time one denoising step on each backend, relative to eager.

    Runs of eager and the backend alternate. The result is the ratio of neighbouring runs; differences below
    the measured noise count as equal. On a CPU both compute in float32, unless --dtype or the recipe names
    another data type.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json
    from m2d.pipeline.planning import plan_recipe
    from m2d.recipe.overrides import Overrides
    from m2d.registry import get_backend

    reporter = make_reporter(quiet=quiet)
    overrides = Overrides(
        device=device,
        dtype=dtype,
        artifacts=artifacts,
        downloads=reporter,
        # All backends compute in it.
        cpu_dtype="float32",
    )
    plan = plan_recipe(recipe, model=options.choice, overrides=overrides)
    with loading_libraries(reporter):
        from m2d.tasks import bench as task
    report = task.run(
        plan, backend or ["eager"], find_backend=get_backend, reporter=reporter, num_pairs=pairs
    )
    if as_json:
        write_json(_document(report))
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
        **pick(plan, "title", "device", "dtype"),
        **pick(report, "num_tokens", "batch_size"),
        "model": pick(plan.source, "name", "digest"),
        "versions": dict(report.versions),
        "backends": [
            pick(timing, "name", "relative_difference")
            | asdict(timing.comparison)
            | pick(timing.comparison, "noise_floor", "verdict")
            for timing in report.timings
        ],
    }
