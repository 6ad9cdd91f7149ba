"""The memory mode of a job: chosen before any work and recorded afterwards, beside what was measured.

Owns what happens when memory runs out all the same: the last state is kept, the error says what to change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from m2d.backend import Backend
from m2d.backend_checks import check_memory, memory_modes
from m2d.diffusion.denoise import DenoiseState
from m2d.errors import BackendError, Remedy
from m2d.film.job import FilmJob
from m2d.film.journal import Journal
from m2d.pipeline.decoding import is_out_of_memory
from m2d.pipeline.observer import Observer, WindowStep
from m2d.pipeline.placing import Prediction, place
from m2d.pipeline.window import memory_of
from m2d.progress import Clock, Reporter, StageProgress
from m2d.video.provenance import RunRecord


class OutOfMemory(BackendError):
    """Memory ran out in spite of the prediction."""


def placed(job: FilmJob, backend: Backend, reporter: Reporter) -> tuple[FilmJob, Prediction | None]:
    """Return the job with its memory mode, and what was predicted; None for a small model.

    Raises:
        InputError: The backend has no such mode, or cannot quantize.
        TooLittleMemory: The mode is to be chosen, and none fits.
    """
    plan, modes = job.plan, memory_modes(backend)
    check_memory(backend, memory=plan.memory, quantized=plan.quantized)
    prediction = place(job.plans, modes=modes, reporter=reporter, num_given=_num_given(job))
    if prediction is None:
        return _with(job, memory=memory_of(plan)), None
    choice = prediction.choice
    return _with(job, memory=choice.memory, decode=choice.decode), prediction


def _with(job: FilmJob, **modes: Any) -> FilmJob:
    runs = tuple(replace(run, plan=replace(run.plan, **modes)) for run in job.runs)
    return replace(job, runs=runs)


def _num_given(job: FilmJob) -> int:
    """Return how many scenes of the input film may have to be encoded."""
    return 0 if job.film is None else sum(scene.latents_FCHW is None for scene in job.film.scenes)


def with_modes(records: Sequence[RunRecord], job: FilmJob) -> list[RunRecord]:
    """Add the memory mode to the record of each run where it is not the plain one.

    It is not part of the request: a run may resume in another mode.
    """
    mode = memory_of(job.plan)
    if mode == "full":
        return list(records)
    return [
        record.model_copy(update={"parameters": {**record.parameters, "memory": mode}}) for record in records
    ]


class MemoryClock(Clock):
    """Times stages, and keeps the peak memory that each of them reached.

    Attributes:
        peaks_bytes: Stage to its peak: on a GPU that of the stage, on a CPU that of the process so far.
    """

    def __init__(self, reporter: Reporter, *, device: str) -> None:
        """Start without stages."""
        super().__init__(reporter)
        self._device = device
        self.peaks_bytes: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        """Run one stage."""
        is_on_gpu = self._device.startswith("cuda")
        if is_on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        with super().stage(name, total=total) as progress:
            yield progress
        peak = torch.cuda.max_memory_allocated(self._device) if is_on_gpu else _process_peak_bytes()
        self.peaks_bytes[name] = max(self.peaks_bytes.get(name, 0), peak)


def _process_peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


@contextmanager
def keeping_state(
    job: FilmJob, journal: Journal, observer: Observer, prediction: Prediction | None
) -> Iterator[Observer]:
    """Yield an observer that remembers the last step; if memory runs out, save it and say what to change.

    Raises:
        OutOfMemory: Memory ran out.
    """
    last: list[tuple[int, DenoiseState]] = []

    def on_step(step: WindowStep) -> None:
        last[:] = [] if step.is_last else [(step.index, step.event.state())]
        if observer.on_step is not None:
            observer.on_step(step)

    try:
        yield replace(observer, on_step=on_step)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        for index, state in last:
            journal.keep_step(index, state)
        raise _explained(job, prediction, is_kept=not journal.is_empty) from error


def _explained(job: FilmJob, prediction: Prediction | None, *, is_kept: bool) -> OutOfMemory:
    plan = job.plan
    said = "" if prediction is None else f", where {prediction.choice.reason}"
    kept = "; finished work is kept" if is_kept else ""
    return OutOfMemory(
        f"memory ran out on {plan.device} in the memory mode {memory_of(plan)}{said}{kept}",
        remedy=Remedy.SAVE_MEMORY_AND_RESUME if is_kept else Remedy.SAVE_MEMORY,
    )
