"""`m2d verify`: whether the backends compute the same film."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2d.cli.backend_options import parse_options
from m2d.cli.options import (
    ArtifactsOption,
    BackendSettings,
    DeviceOption,
    DtypeOption,
    ModelOption,
    QuietFlag,
    ReportJsonFlag,
    StepsOption,
    StoryArgument,
)
from m2d.errors import EXIT_FAILED, BackendUnavailable, InputError

if TYPE_CHECKING:
    from m2d.recipe.schema import Speed
    from m2d.tasks.verify import BackendVerdict, FilmDifference, VerifyReport


def verify(
    recipe: StoryArgument,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Compare this one; may be repeated. Default: all."),
    ] = None,
    model: ModelOption = None,
    steps: StepsOption = None,
    speed: Annotated[
        list[str] | None,
        typer.Option("--speed", metavar="NAME", help="Compare balanced or fast with exact, too; repeatable."),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    artifacts: ArtifactsOption = None,
    backend_option: BackendSettings = None,
    export: Annotated[
        bool, typer.Option("--export", help="Export what a backend needs and does not find.")
    ] = False,
    as_json: ReportJsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Compare backends with eager on a story, from the same noise.

    Every step is compared for the same input, and the finished frames. Eager computes everything in every
    step; where others compute clean context once (masks causal and window:k), that is compared, too, and
    with --backend eager its own. --backend-option is for a single --backend. Exits with 0 when all that ran
    are within the tolerances, with 1 when one is not, with 3 when one that was asked for cannot run here.
    """
    from m2d.cli.console import loading_libraries, make_reporter, write_result
    from m2d.pipeline.planning import plan_recipe
    from m2d.recipe.overrides import Overrides
    from m2d.registry import get_backend

    overrides = Overrides(
        num_inference_steps=steps,
        device=device,
        dtype=dtype,
        artifacts=artifacts,
        **_settings(backend or [], parse_options(backend_option)),
    )
    plan = plan_recipe(recipe, model=model, overrides=overrides)
    # A speed alone is compared on eager, whatever else works here.
    names = backend or ([] if speed else _available(plan.device))
    reporter = make_reporter(quiet=quiet)
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
        write_result(json.dumps(_document(report), indent=2))
    else:
        _show(report)
    raise typer.Exit(0 if report.all_same else EXIT_FAILED)


def _settings(names: Sequence[str], options: dict[str, str]) -> dict[str, Any]:
    """What the command line says of one backend's options, as overrides; without any, the recipe's hold."""
    if not options:
        return {}
    if len(names) != 1:
        raise InputError(f"--backend-option: is for one --backend, got {len(names)} of them")
    return {"backend": names[0], "backend_options": options}


def parse_speeds(names: Sequence[str]) -> list[Speed]:
    """Read speeds that can be compared with exact.

    Raises:
        InputError: Any other name.
    """
    known: dict[str, Speed] = {"balanced": "balanced", "fast": "fast"}
    for name in names:
        if name not in known:
            raise InputError(f"--speed: got {name!r}; balanced and fast can be compared with exact")
    return [known[name] for name in names]


def _available(device: str) -> list[str]:
    """All backends that work on `device` and can be compared with eager."""
    from m2d.registry import available_backends

    works = [status.name for status in available_backends(device) if status.unavailable_reason is None]
    others = [name for name in works if name != "eager"]
    if not others:
        raise BackendUnavailable(
            f"no backend but eager works on {device}, so there is nothing to compare; `m2d doctor` says what "
            "the others need"
        )
    return others


def _show(report: VerifyReport) -> None:
    from m2d.cli.console import show_fields, show_heading, show_states

    plan = report.plan
    show_heading(f"{plan.title}: compared with eager on {plan.device} in {plan.dtype}")
    if report.verdicts:
        show_states([(verdict.name, verdict.state == "same", _line(verdict)) for verdict in report.verdicts])
    if report.speeds:
        show_heading("Speeds, compared with exact; shown, not judged")
        show_fields([(name, _film(film)) for name, film in report.speeds.items()])
    frames = (
        f"pixels within {report.pixel_tolerance} of 255"
        if report.pixel_tolerance is not None
        else "frames are shown and not judged"
    )
    show_heading("Tolerances")
    show_fields([("every step", f"relative error up to {report.step_tolerance:.2g}"), ("film", frames)])


def _line(verdict: BackendVerdict) -> str:
    worst, film = verdict.worst_step, verdict.film
    if worst is None or film is None:
        return f"not run: {verdict.problem}"
    return (
        f"{verdict.state}; worst of {len(verdict.steps)} steps: {worst.relative_error:.1e} "
        f"(step {worst.step}), cosine {worst.cosine:.7f}; "
        f"film: {_film(film)}"
        + (f"; context computed once: {verdict.context_bytes / 1e6:.1f} MB" * bool(verdict.context_bytes))
    )


def _film(film: FilmDifference) -> str:
    psnr = "equal frames" if math.isinf(film.psnr_db) else f"PSNR {film.psnr_db:.1f} dB"
    return f"{psnr}, largest pixel difference {film.max_pixel_difference}"


def _document(report: VerifyReport) -> dict[str, Any]:
    """The report as JSON values; windows are counted from 1, as steps are."""
    plan = report.plan
    return {
        "title": plan.title,
        "model": {"name": plan.source.name, "digest": plan.source.digest},
        "device": plan.device,
        "dtype": plan.dtype,
        "num_inference_steps": plan.sampling.num_inference_steps,
        "step_tolerance": report.step_tolerance,
        "pixel_tolerance": report.pixel_tolerance,
        "all_same": report.all_same,
        "speeds": {name: _finite(asdict(film)) for name, film in report.speeds.items()},
        "backends": [_backend_document(verdict) for verdict in report.verdicts],
    }


def _backend_document(verdict: BackendVerdict) -> dict[str, Any]:
    steps = [_finite(asdict(step) | {"window": step.window + 1}) for step in verdict.steps]
    return {
        "name": verdict.name,
        "state": verdict.state,
        "problem": verdict.problem or None,
        "max_relative_error": max(_column(steps, "relative_error"), default=None),
        "context_bytes": verdict.context_bytes,
        "steps": steps,
        "film": None if verdict.film is None else _finite(asdict(verdict.film)),
    }


def _column(steps: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [step[name] for step in steps if step[name] is not None]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: what is infinite becomes null."""
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in values.items()
    }
