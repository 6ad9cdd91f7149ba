"""The options that every command which makes a film has, and how such a command runs its task."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from m2d.cli.options import (
    ArtifactsOption,
    BackendOption,
    BackendSettings,
    DeviceOption,
    DtypeOption,
    ForceFlag,
    ModelOption,
    PreviewFlag,
    QuietFlag,
    ResultJsonFlag,
    ResumeFlag,
    SavePreviewsFlag,
    SpeedOption,
    StepsOption,
    parse_options,
)
from m2d.cli.results import pick, report_film, show_headline

if TYPE_CHECKING:
    from m2d.film.make import FilmResult, RunOptions
    from m2d.recipe.overrides import Overrides


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """The shared options, in the order in which `--help` lists them."""

    model: ModelOption = None
    steps: StepsOption = None
    speed: SpeedOption = None
    backend: BackendOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    artifacts: ArtifactsOption = None
    backend_option: BackendSettings = None
    preview: PreviewFlag = False
    save_previews: SavePreviewsFlag = False
    resume: ResumeFlag = False
    force: ForceFlag = False
    as_json: ResultJsonFlag = False
    quiet: QuietFlag = False

    def overrides(self, *, out: Path | None, seed: int | None = None) -> Overrides:
        """Return the values that replace those of the recipe."""
        from m2d.recipe.overrides import Overrides

        return Overrides(
            out=out,
            seed=seed,
            num_inference_steps=self.steps,
            backend_options=parse_options(self.backend_option),
            **pick(self, "speed", "backend", "device", "dtype", "artifacts"),
        )

    def run_options(self) -> RunOptions:
        """Return the options that do not change the film."""
        from m2d.film.make import RunOptions

        return RunOptions(draft=self.preview, **pick(self, "force", "resume", "save_previews"))


def with_film_options(command: Callable[..., None]) -> Callable[..., None]:
    """Append the shared options to those of `command`, which receives them as its argument `options`."""
    own = inspect.signature(command, eval_str=True).parameters
    hints = get_type_hints(FilmOptions, include_extras=True)
    shared = {
        field.name: inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(FilmOptions)
    }
    parameters = [*(own[name] for name in own if name != "options"), *shared.values()]

    @wraps(command)
    def run(**given: Any) -> None:
        options = FilmOptions(**{name: given.pop(name) for name in shared})
        command(**given, options=options)

    # Typer reads both.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # not in the stubs
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def run_task(
    load: Callable[[], Callable[..., FilmResult]], *, options: FilmOptions, overrides: Overrides
) -> None:
    """Run a task that changes a film, and show the new film.

    Args:
        load: Imports the task, which takes seconds, and returns its `run` with the request filled in.
        options: The shared options.
        overrides: The values that replace those of the recipe.
    """
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.registry import get_backend

    began_s = time.monotonic()
    reporter = make_reporter(quiet=options.quiet)
    with loading_libraries(reporter):
        run = load()
        run_options = options.run_options()
    result = run(
        find_backend=get_backend,
        reporter=reporter,
        overrides=overrides,
        options=run_options,
        on_plan=partial(show_headline, quiet=options.quiet),
    )
    report_film(result, began_s=began_s, quiet=options.quiet, as_json=options.as_json)
