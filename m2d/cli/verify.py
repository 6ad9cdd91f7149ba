"""`m2d verify`: compare backends with eager on a story."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m2d.cli.model_options import ModelOptions, with_options
from m2d.cli.options import (
    ArtifactsOption,
    BackendSettings,
    DeviceOption,
    DtypeOption,
    QuietFlag,
    ReportJsonFlag,
    StepsOption,
    StoryArgument,
    parse_options,
)
from m2d.cli.results import pick
from m2d.errors import EXIT_FAILED, BackendUnavailable, InputError
from m2d.video.printable import counted

if TYPE_CHECKING:
    from m2d.pipeline.comparison import FilmDifference
    from m2d.recipe.schema import Speed
    from m2d.tasks.verify import BackendVerdict, VerifyReport


@with_options(ModelOptions)
def verify(
    recipe: StoryArgument,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Backend to compare; repeatable. Default: all."),
    ] = None,
    steps: StepsOption = None,
    speed: Annotated[
        list[str] | None,
        typer.Option("--speed", metavar="NAME", help="Also compare balanced or fast with exact; repeatable."),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    artifacts: ArtifactsOption = None,
    backend_option: BackendSettings = None,
    export: Annotated[bool, typer.Option("--export", help="Export missing graphs.")] = False,
    as_json: ReportJsonFlag = False,
    quiet: QuietFlag = False,
    *,
    options: ModelOptions,
) -> None:
    """Compare backends with eager on a story, from the same noise.

    Compares the output of every step for the same input, and the finished frames. The reference computes
    clean context in every step, so backends that compute it once (masks causal and window:k) are checked for
    that, too; --backend eager checks eager itself. On a CPU all compute in float32, unless --dtype or the
    recipe names another data type. --backend-option needs exactly one --backend. Exits with 0 if all backends
    that ran are within the tolerances, with 1 if one is not, with 3 if a requested one cannot
    run.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_json
    from m2d.pipeline.planning import plan_recipe
    from m2d.recipe.overrides import Overrides
    from m2d.registry import get_backend

    reporter = make_reporter(quiet=quiet)
    overrides = Overrides(
        downloads=reporter,
        # All backends compute in it.
        cpu_dtype="float32",
        num_inference_steps=steps,
        device=device,
        dtype=dtype,
        artifacts=artifacts,
        **_settings(backend or [], parse_options(backend_option)),
    )
    plan = plan_recipe(recipe, model=options.choice, overrides=overrides)
    # With only --speed, eager is compared with itself.
    names = backend or ([] if speed else _available(plan.device))
    with loading_libraries(reporter):
        from m2d.tasks import verify as task
    report = task.run(
        plan,
        names,
        find_backend=get_backend,
        reporter=reporter,
        required=backend is not None,
        export=export,
        speeds=parse_speeds(speed or []),
    )
    if as_json:
        write_json(_document(report))
    else:
        _show(report)
    raise typer.Exit(0 if report.all_same else EXIT_FAILED)


def _settings(names: Sequence[str], options: dict[str, str]) -> dict[str, Any]:
    """Return the overrides for one backend's options; without options, the recipe's apply."""
    if not options:
        return {}
    if len(names) != 1:
        raise InputError(f"--backend-option: needs exactly one --backend, got {len(names)}")
    return {"backend": names[0], "backend_options": options}


def parse_speeds(names: Sequence[str]) -> list[Speed]:
    """Parse the speeds to compare with exact; any other name is an InputError."""
    for name in names:
        if name not in ("balanced", "fast"):
            raise InputError(f"--speed: got {name!r}; balanced and fast can be compared with exact")
    return [cast("Speed", name) for name in names]


def _available(device: str) -> list[str]:
    """Return all backends but eager that work on `device`."""
    from m2d.registry import available_backends

    works = [status.name for status in available_backends(device) if status.unavailable_reason is None]
    others = [name for name in works if name != "eager"]
    if not others:
        raise BackendUnavailable(
            f"no backend but eager works on {device}, so there is nothing to compare; `m2d doctor` shows "
            "what the others need"
        )
    return others


def _show(report: VerifyReport) -> None:
    from m2d.cli.console import show_fields, show_heading, show_states

    plan = report.plan
    show_heading(f"{plan.title}: compared with eager on {plan.device} in {plan.dtype}")
    if report.verdicts:
        show_states([(verdict.name, verdict.state == "same", _line(verdict)) for verdict in report.verdicts])
    if report.speeds:
        show_heading("Speeds, compared with exact; for information only")
        show_fields([(name, _film(film)) for name, film in report.speeds.items()])
    frames = (
        f"pixels within {report.pixel_tolerance} of 255"
        if report.pixel_tolerance is not None
        else "frames are compared for information only"
    )
    show_heading("Tolerances")
    show_fields([("every step", f"relative error up to {report.step_tolerance:.2g}"), ("film", frames)])


def _line(verdict: BackendVerdict) -> str:
    worst, film = verdict.worst_step, verdict.film
    if worst is None or film is None:
        return f"not run: {verdict.problem}"
    return (
        f"{verdict.state}; worst of {counted(len(verdict.steps), 'step')}: {worst.relative_error:.1e} "
        f"(step {worst.step}), cosine {worst.cosine:.7f}; "
        f"film: {_film(film)}"
        + (f"; context computed once: {verdict.context_bytes / 1e6:.1f} MB" * bool(verdict.context_bytes))
    )


def _film(film: FilmDifference) -> str:
    psnr = "equal frames" if math.isinf(film.psnr_db) else f"PSNR {film.psnr_db:.1f} dB"
    return f"{psnr}, largest pixel difference {film.max_pixel_difference}"


def _document(report: VerifyReport) -> dict[str, Any]:
    """Return the report as JSON values; windows and steps are counted from 1."""
    plan = report.plan
    return {
        **pick(plan, "title", "device", "dtype"),
        **pick(report, "step_tolerance", "pixel_tolerance", "all_same"),
        "model": pick(plan.source, "name", "digest"),
        "num_inference_steps": plan.sampling.num_inference_steps,
        "speeds": {name: _finite(asdict(film)) for name, film in report.speeds.items()},
        "backends": [_backend_document(verdict) for verdict in report.verdicts],
    }


def _backend_document(verdict: BackendVerdict) -> dict[str, Any]:
    steps = [_finite(asdict(step) | {"window": step.window + 1}) for step in verdict.steps]
    errors = [step["relative_error"] for step in steps if step["relative_error"] is not None]
    return {
        **pick(verdict, "name", "state", "context_bytes"),
        "problem": verdict.problem or None,
        "max_relative_error": max(errors, default=None),
        "steps": steps,
        "film": None if verdict.film is None else _finite(asdict(verdict.film)),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace infinite values by None, since JSON has no infinity."""
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in values.items()
    }
