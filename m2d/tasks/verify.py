"""Verify: check that backends compute the same film as eager, per step and for the finished frames.

Owns the tolerances. Every backend gets the recorded inputs of eager's calls, which shows the error of one
step, and makes the film from the same noise, which shows how errors add up. Eager computes clean context in
every step; a backend that computes it once, as in a normal run, is compared in that mode. Writes no film.
"""

# P frames, H W height and width, C channels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from m2d.backend import Backend, BackendOptions, ExportingBackend
from m2d.backend_checks import require_available
from m2d.diffusion.step_cache import Speed
from m2d.errors import ArtifactMissing, BackendError, ExportError, InputError
from m2d.pipeline.comparison import FilmDifference, StepDifference, film_difference, step_differences
from m2d.pipeline.graphs import GraphRequest, check_graphs, graphs_of
from m2d.pipeline.recording import Call, RecordingBackend, Respondent
from m2d.pipeline.scenes import ScenePipeline
from m2d.progress import Clock, Reporter
from m2d.recipe.plan import RunPlan

REFERENCE = "eager"
State = Literal["same", "different", "not run"]

STEP_TOLERANCES: Mapping[str, float] = {
    # The bound of m2d's backend tests: 80 times float32's epsilon; reordered sums measure 10.
    "float32": 1e-5,
    # Four epsilons: a half-precision velocity differs by one epsilon from float32 (measured 0.85 at eight
    # layers), two such velocities by up to two, and deeper models need the same again.
    "bfloat16": 4 * 2**-7,
    "float16": 4 * 2**-10,
}
"""Largest allowed relative error of a step, by dtype."""
PIXEL_TOLERANCE = 1
"""Largest allowed pixel difference in float32, in 255ths: a value between two levels may round either way. In
half precision, rounding alone changes the film, so the frame difference is shown but not judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendVerdict:
    """Result for one backend.

    Attributes:
        state: `same` within the tolerances, `different`, or `not run`.
        problem: Why the backend did not run, and how to fix that.
        context_bytes: Largest size of cached context in a window; 0 if none was cached.
    """

    name: str
    state: State
    problem: str = ""
    steps: tuple[StepDifference, ...] = ()
    film: FilmDifference | None = None
    context_bytes: int = 0

    @property
    def worst_step(self) -> StepDifference | None:
        """The step with the largest relative error."""
        return max(self.steps, key=lambda step: step.relative_error, default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """Results for all backends.

    Attributes:
        step_tolerance: Largest allowed relative error of a step.
        pixel_tolerance: Largest allowed pixel difference; None where frames are not judged.
        speeds: Difference of eager's film at each speed from the exact one; shown but not judged.
    """

    plan: RunPlan
    step_tolerance: float
    pixel_tolerance: int | None
    verdicts: tuple[BackendVerdict, ...]
    speeds: Mapping[Speed, FilmDifference]

    @property
    def all_same(self) -> bool:
        """Whether every backend that ran is within the tolerances."""
        return all(verdict.state != "different" for verdict in self.verdicts)


class _Film(NamedTuple):
    """The reference run: its recorded calls and its frames."""

    calls: Sequence[Call]
    frames_PHWC: npt.NDArray[np.uint8]


def run(
    plan: RunPlan,
    names: Sequence[str],
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    required: bool,
    export: bool = False,
    speeds: Sequence[Speed] = (),
) -> VerifyReport:
    """Compare backends with eager.

    Args:
        plan: The story, from `plan_recipe`. The plan's backend options apply only to that backend; its
            speed is ignored, and every step is computed.
        names: The backends.
        find_backend: Returns a backend by its name.
        reporter: Receives stages and steps.
        required: Whether a backend that cannot run is an error; otherwise the report says why.
        export: Whether missing graphs are exported.
        speeds: Speeds whose eager film is compared with the exact one.

    Raises:
        UnknownBackend: A backend is not installed.
        BackendUnavailable: Eager or a required backend cannot run on the plan's device.
        M2DError: Eager failed; see `make_film`.
    """
    backends = {name: find_backend(name) for name in names}
    plan = _at_speed(plan, "exact")
    for backend in (find_backend(REFERENCE), *(backends.values() if required else ())):
        require_available(backend, plan.device)
    plain = plan.without_backend_options()
    if required and not export:
        for name, backend in backends.items():
            check_graphs([plan if name == plan.backend else plain], backend)
    reference = _record(plain, find_backend(REFERENCE), reporter)
    verdicts = []
    for name, backend in backends.items():
        own = plan if name == plan.backend else plain
        try:
            _find_graphs(own, backend, reporter, export=export)
            verdicts.append(_verdict(own, backend, reference, reporter))
        except (BackendError, ExportError, InputError) as error:
            if required:
                raise
            verdicts.append(BackendVerdict(name=name, state="not run", problem=str(error)))
        finally:
            backend.release()
    differences = {
        speed: _speed_difference(plain, speed, find_backend(REFERENCE), reference, reporter)
        for speed in speeds
    }
    return VerifyReport(
        plan=plan,
        step_tolerance=STEP_TOLERANCES[plan.dtype],
        pixel_tolerance=_pixel_tolerance(plan),
        verdicts=tuple(verdicts),
        speeds=differences,
    )


def _record(plan: RunPlan, backend: Backend, reporter: Reporter) -> _Film:
    recording = RecordingBackend(backend)
    with reporter.stage(f"{REFERENCE}: film"):
        frames_PHWC = _frames(plan, recording, reporter)
    return _Film(recording.calls, frames_PHWC)


def _verdict(plan: RunPlan, backend: Backend, reference: _Film, reporter: Reporter) -> BackendVerdict:
    velocities, context_bytes = _answers(plan, backend, reference.calls, reporter)
    steps = step_differences(reference.calls, velocities)
    with reporter.stage(f"{backend.name}: film"):
        film = film_difference(reference.frames_PHWC, _frames(plan, backend, reporter))
    allowed = _pixel_tolerance(plan)
    is_same = all(step.relative_error <= STEP_TOLERANCES[plan.dtype] for step in steps) and (
        allowed is None or film.max_pixel_difference <= allowed
    )
    return BackendVerdict(
        name=backend.name,
        state="same" if is_same else "different",
        steps=steps,
        film=film,
        context_bytes=context_bytes,
    )


def _find_graphs(plan: RunPlan, backend: Backend, reporter: Reporter, *, export: bool) -> None:
    """Check that the graphs a backend needs exist, or export them if `export` is set."""
    if not isinstance(backend, ExportingBackend):
        return
    for request in graphs_of([plan]):
        graph = (request.source, request.layout, request.options)
        try:
            backend.find(*graph)
        except ArtifactMissing as error:
            if not export:
                text = f"{error}; export this story for {backend.name} first, or add --export here"
                raise ArtifactMissing(text) from error
            with reporter.stage(f"{backend.name}: export"):
                backend.export(*graph)


def _speed_difference(
    plan: RunPlan, speed: Speed, backend: Backend, reference: _Film, reporter: Reporter
) -> FilmDifference:
    with reporter.stage(f"{speed}: film"):
        return film_difference(reference.frames_PHWC, _frames(_at_speed(plan, speed), backend, reporter))


def _at_speed(plan: RunPlan, speed: Speed) -> RunPlan:
    return replace(plan, sampling=plan.sampling.model_copy(update={"speed": speed}))


def _answers(
    plan: RunPlan, backend: Backend, calls: Sequence[Call], reporter: Reporter
) -> tuple[list[Tensor], int]:
    """Compute a backend's velocities with its own options, and with cached context as in a normal run.

    Returns:
        The velocities, and the largest size in bytes of a window's cached context.
    """
    answers = []
    context_bytes = 0
    with reporter.stage(f"{backend.name}: steps", total=len(calls)) as progress:
        for preparation, of_window in groupby(calls, key=lambda call: call.preparation):
            denoiser = backend.prepare(preparation.source, preparation.layout, _options(preparation, plan))
            respondent = Respondent(denoiser, keep_context=plan.sampling.keep_context)
            for call in of_window:
                answers.append(respondent.answer(call))
                progress.advance()
            context_bytes = max(context_bytes, respondent.context_bytes)
    return answers, context_bytes


def _options(preparation: GraphRequest, plan: RunPlan) -> BackendOptions:
    return replace(preparation.options, extra=plan.backend_options)


def _frames(plan: RunPlan, backend: Backend, reporter: Reporter) -> npt.NDArray[np.uint8]:
    """Return the decoded frames PHWC of all scenes, one scene after the other."""
    pipeline = ScenePipeline(plan.source, backend, device=plan.device, clock=Clock(reporter))
    latents = pipeline.denoise([plan]).latents_FCHW
    pipeline.release_transformer()
    decoder = pipeline.decoder()
    return np.concatenate([decoder.decode(latents[scene], scene=scene) for scene in sorted(latents)])


def _pixel_tolerance(plan: RunPlan) -> int | None:
    return PIXEL_TOLERANCE if plan.dtype == "float32" else None
