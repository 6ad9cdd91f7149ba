"""Verify: whether the backends compute the same film as eager, step by step and in the end.

Owns what is compared and what counts as the same. Every backend answers eager's own calls (same latents,
prompts and timesteps), which shows how far one step is off; and it makes the film from the same noise, which
shows what becomes of that. Eager computes everything in every step; where a backend computes clean context
once, as it does in a run, that is compared, too. No film is written.
"""

# B batch, F latent frames, C channels, H W height and width, P frames

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2d.backend import Backend, BackendOptions, ExportingBackend
from m2d.backend_checks import require_available
from m2d.diffusion.step_cache import Speed
from m2d.errors import ArtifactMissing, BackendError, ExportError, InputError
from m2d.pipeline.recording import Call, Preparation, RecordingBackend, Respondent
from m2d.pipeline.scenes import ScenePipeline
from m2d.progress import Clock, Reporter
from m2d.recipe.plan import RunPlan

REFERENCE = "eager"
State = Literal["same", "different", "not run"]

STEP_TOLERANCES: Mapping[str, float] = {
    # The bound that every backend of m2d keeps: 80 times float32's unit, where reordered sums measure 10.
    "float32": 1e-5,
    # Four units: a velocity in half precision is one unit from the float32 one (measured 0.85 at eight
    # layers), two such ones are up to two units apart, and deeper models get as much again.
    "bfloat16": 4 * 2**-7,
    "float16": 4 * 2**-10,
}
"""Largest relative error of a step, by what the model computes in."""
PIXEL_TOLERANCE = 1
"""Largest difference of a pixel, in 255ths, in float32: a value between two may fall to either side. In half
precision rounding alone leads to other films, so there the frames are shown and not judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDifference:
    """How far a backend's velocity is from eager's for the same input.

    Attributes:
        window: The window of the story, from 0.
        step: From 1.
        relative_error: Norm of the difference over eager's; infinite for what is not finite.
        cosine: Of the angle between the two.
        max_abs_error: Largest difference of a number.
    """

    window: int
    step: int
    relative_error: float
    cosine: float
    max_abs_error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmDifference:
    """How far the finished frames are apart.

    Attributes:
        psnr_db: Of all frames; infinite when all are equal.
        max_pixel_difference: In 255ths.
        differing_share: Share of the numbers that differ at all.
    """

    psnr_db: float
    max_pixel_difference: int
    differing_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendVerdict:
    """What was found out about one backend.

    Attributes:
        name: The backend.
        state: `same` within the tolerances, `different`, or `not run`.
        problem: Why it did not run, and what to do about it.
        steps: Differences of all steps.
        film: Difference of the films.
        context_bytes: Largest memory of context that was computed once in a window; 0 when none was.
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
    """What `verify` found out.

    Attributes:
        plan: What was run.
        step_tolerance: Largest relative error allowed of a step.
        pixel_tolerance: Largest pixel difference allowed; None where frames are not judged.
        verdicts: One per backend.
        speeds: What each speed makes of eager's film; shown, and not judged.
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


class _Film:
    """A recorded run of the reference: its calls and its frames."""

    def __init__(self, calls: Sequence[Call], frames_PHWC: npt.NDArray[np.uint8]) -> None:
        self.calls, self.frames_PHWC = calls, frames_PHWC


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
        plan: From `plan_recipe`. Its backend's options are that backend's alone, and never the reference's.
            Its speed is not looked at: steps are compared when all are computed.
        names: The backends.
        find_backend: Gives a backend by its name.
        reporter: Is told about stages and steps.
        required: Whether a backend that cannot run is an error; otherwise the report says why.
        export: Whether graphs that a backend needs and does not find are exported.
        speeds: Compare eager's film at these with the exact one, too.

    Raises:
        UnknownBackend: A name nobody knows.
        BackendUnavailable: Eager cannot run on the plan's device, or a required backend cannot.
        M2DError: As `m2d generate`, for eager.
    """
    backends = {name: find_backend(name) for name in names}
    plan = _at_speed(plan, "exact")
    for backend in (find_backend(REFERENCE), *(backends.values() if required else ())):
        require_available(backend, plan.device)
    plain = plan.without_backend_options()
    reference = _record(plain, find_backend(REFERENCE), reporter)
    verdicts = []
    for name, backend in backends.items():
        own = plan if name == plan.backend else plain
        try:
            _find_graphs(own, backend, reference.calls, reporter, export=export)
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


def step_differences(calls: Sequence[Call], answers: Sequence[Tensor]) -> tuple[StepDifference, ...]:
    """Compare a backend's answers with the recorded ones; a step with two calls counts with the worse."""
    found: list[StepDifference] = []
    windows = groupby(zip(calls, answers, strict=True), key=lambda pair: pair[0].preparation)
    for window, (_, pairs) in enumerate(windows):
        steps = groupby(pairs, key=lambda pair: pair[0].timestep)
        for step, (_, of_step) in enumerate(steps, start=1):
            differences = [
                _step_difference(call.velocity_BFCHW, answer, window=window, step=step)
                for call, answer in of_step
            ]
            found.append(max(differences, key=lambda difference: difference.relative_error))
    return tuple(found)


def film_difference(
    expected_PHWC: npt.NDArray[np.uint8], actual_PHWC: npt.NDArray[np.uint8]
) -> FilmDifference:
    """Compare frames."""
    difference = np.abs(expected_PHWC.astype(np.int16) - actual_PHWC.astype(np.int16))
    mean_square = float(np.mean(np.square(difference, dtype=np.float64)))
    return FilmDifference(
        psnr_db=float(10 * np.log10(255**2 / mean_square)) if mean_square else float("inf"),
        max_pixel_difference=int(difference.max()),
        differing_share=float(np.mean(difference > 0)),
    )


def _step_difference(
    expected_BFCHW: Tensor, actual_BFCHW: Tensor, *, window: int, step: int
) -> StepDifference:
    expected, actual = expected_BFCHW.double().flatten(), actual_BFCHW.double().flatten()
    if expected.shape != actual.shape or not torch.isfinite(actual).all():
        infinite = float("inf")
        return StepDifference(
            window=window, step=step, relative_error=infinite, cosine=0.0, max_abs_error=infinite
        )
    difference = actual - expected
    return StepDifference(
        window=window,
        step=step,
        relative_error=float(difference.norm() / expected.norm()),
        cosine=float(torch.nn.functional.cosine_similarity(expected, actual, dim=0)),
        max_abs_error=float(difference.abs().max()),
    )


def _record(plan: RunPlan, backend: Backend, reporter: Reporter) -> _Film:
    recording = RecordingBackend(backend)
    with reporter.stage(f"{REFERENCE}: film"):
        frames_PHWC = _frames(plan, recording, reporter)
    return _Film(recording.calls, frames_PHWC)


def _verdict(plan: RunPlan, backend: Backend, reference: _Film, reporter: Reporter) -> BackendVerdict:
    answers = _answers(plan, backend, reference.calls, reporter)
    steps = step_differences(reference.calls, answers.velocities)
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
        context_bytes=answers.context_bytes,
    )


def _find_graphs(
    plan: RunPlan, backend: Backend, calls: Sequence[Call], reporter: Reporter, *, export: bool
) -> None:
    """Make sure that the graphs a backend needs are there, or can be exported.

    Raises:
        ArtifactMissing: One is not, and none is to be made.
    """
    if not isinstance(backend, ExportingBackend):
        return
    for preparation, _ in groupby(calls, key=lambda call: call.preparation):
        of = (preparation.source, preparation.layout, _options(preparation, plan))
        try:
            backend.find(*of)
        except ArtifactMissing as error:
            if not export:
                command = f"m2d export --backend {backend.name} --recipe STORY"
                raise ArtifactMissing(f"{error}; run `{command}`, or add --export here") from error
            with reporter.stage(f"{backend.name}: export"):
                backend.export(*of)


def _speed_difference(
    plan: RunPlan, speed: Speed, backend: Backend, reference: _Film, reporter: Reporter
) -> FilmDifference:
    with reporter.stage(f"{speed}: film"):
        return film_difference(reference.frames_PHWC, _frames(_at_speed(plan, speed), backend, reporter))


def _at_speed(plan: RunPlan, speed: Speed) -> RunPlan:
    return replace(plan, sampling=plan.sampling.model_copy(update={"speed": speed}))


class _Answers(NamedTuple):
    velocities: Sequence[Tensor]
    context_bytes: int


def _answers(plan: RunPlan, backend: Backend, calls: Sequence[Call], reporter: Reporter) -> _Answers:
    """What a backend answers, with its own options and with context kept, as it would be in a run."""
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
    return _Answers(answers, context_bytes)


def _options(preparation: Preparation, plan: RunPlan) -> BackendOptions:
    return replace(preparation.options, extra=plan.backend_options)


def _frames(plan: RunPlan, backend: Backend, reporter: Reporter) -> npt.NDArray[np.uint8]:
    """All scenes' frames as the codec gives them, PHWC, one scene after the other."""
    pipeline = ScenePipeline(plan.source, backend, device=plan.device, clock=Clock(reporter))
    latents = pipeline.denoise([plan]).latents_FCHW
    pipeline.release_transformer()
    decoder = pipeline.decoder()
    return np.concatenate([decoder.decode(latents[scene], scene=scene) for scene in sorted(latents)])


def _pixel_tolerance(plan: RunPlan) -> int | None:
    return PIXEL_TOLERANCE if plan.dtype == "float32" else None
