"""Bench: how long one denoising step of a story takes on each backend, against eager in the same run.

Owns what is timed: the story's first call of the transformer, with real prompts and noise.
`m2d.tasks.pairing` pairs the runs and compares their times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata

from m2d.backend import Backend, Denoiser
from m2d.errors import InputError
from m2d.film.job import check_backend
from m2d.pipeline.recording import Call, RecordingBackend
from m2d.pipeline.scenes import ScenePipeline
from m2d.progress import Clock, Reporter
from m2d.recipe.plan import RunPlan
from m2d.tasks.pairing import Comparison, compare

REFERENCE = "eager"
FEWEST_PAIRS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendTiming:
    """One backend against eager.

    Attributes:
        name: The backend.
        comparison: The backend's times against eager's.
        relative_difference: Largest difference of the two velocities over the largest value of eager's.
    """

    name: str
    comparison: Comparison
    relative_difference: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """The timings of all backends, the sizes of the timed call, and library versions."""

    plan: RunPlan
    num_tokens: int
    batch_size: int
    versions: Mapping[str, str]
    timings: tuple[BackendTiming, ...]


def run(
    plan: RunPlan,
    names: Sequence[str],
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    num_pairs: int = 9,
) -> BenchReport:
    """Time one step of a story on backends.

    Args:
        plan: The story, from `plan_recipe`. The plan's backend options apply only to that backend.
        names: The backends; eager itself measures the noise.
        find_backend: Returns a backend by its name.
        reporter: Receives stages.
        num_pairs: Number of paired runs of each backend.

    Raises:
        InputError: `num_pairs` is too small for a median.
        BackendError: A backend is not installed, cannot run on the plan's device, or lacks a graph.
    """
    if num_pairs < FEWEST_PAIRS:
        raise InputError(f"{num_pairs} is below {FEWEST_PAIRS}, too few for a median", argument="pairs")
    backends = {name: find_backend(name) for name in names}
    reference = find_backend(REFERENCE)
    plain = plan.without_backend_options()
    for name, backend in {REFERENCE: reference, **backends}.items():
        check_backend([plan if name == plan.backend else plain], backend)
    call = _first_call(plain, reference, reporter)
    eager = _denoiser(call, reference, {})
    timings = []
    for name, backend in backends.items():
        extra = plan.backend_options if name == plan.backend else {}
        with reporter.stage(f"{name}: {num_pairs} pairs"):
            denoiser = _denoiser(call, backend, extra)
            timings.append(_time(name, call, denoiser, eager, num_pairs))
        if backend is not reference:
            backend.release()
    reference.release()
    return BenchReport(
        plan=plan,
        num_tokens=call.preparation.layout.num_tokens,
        batch_size=len(call.latents_BFCHW),
        versions={name: metadata.version(name) for name in ("m2d", "torch", "diffusers")},
        timings=tuple(timings),
    )


def _first_call(plan: RunPlan, backend: Backend, reporter: Reporter) -> Call:
    """Run a single step of the story and return the first call of its transformer."""
    short = replace(plan, sampling=plan.sampling.model_copy(update={"num_inference_steps": 1}))
    recording = RecordingBackend(backend)
    pipeline = ScenePipeline(plan.source, recording, device=plan.device, clock=Clock(reporter))
    with reporter.stage("first step"):
        pipeline.denoise([short])
        pipeline.release_transformer()
    return recording.calls[0]


def _denoiser(call: Call, backend: Backend, extra: Mapping[str, str]) -> Denoiser:
    preparation = call.preparation
    options = replace(preparation.options, extra=extra)
    return backend.prepare(preparation.source, preparation.layout, options)


def _time(name: str, call: Call, denoiser: Denoiser, eager: Denoiser, num_pairs: int) -> BackendTiming:
    device = call.preparation.options.device
    tensors = (call.latents_BFCHW, call.prompt_embeds_BLD, call.timesteps_BN)
    inputs = [tensor.to(device) for tensor in tensors]
    ours, expected = denoiser.predict(*inputs).float(), eager.predict(*inputs).float()
    comparison = compare(
        lambda: denoiser.predict(*inputs), lambda: eager.predict(*inputs), num_pairs=num_pairs, device=device
    )
    difference = float((ours - expected).abs().max() / expected.abs().max())
    return BackendTiming(name=name, comparison=comparison, relative_difference=difference)
