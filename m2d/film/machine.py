"""What a job's runs compute with, CPU threads and data type, and how this machine differs from a film's.

Every run keeps those recorded, so that the same frames come out; `m2d.pipeline.machine` applies the threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from m2d.film.job import FilmJob
from m2d.pipeline.machine import this_machine
from m2d.progress import Reporter
from m2d.recipe.backend_choice import DtypeName
from m2d.recipe.plan import RunPlan
from m2d.video.printable import printable
from m2d.video.provenance import RunRecord, name_threads
from m2d.video.provenance_builder import installed_versions

# Its version is recorded, but computes nothing.
_NO_FRAMES = "python"
_LONGEST_NAME = 200


def recorded_threads(runs: Sequence[RunRecord]) -> int | None:
    """Return the CPU threads of the newest run that records them."""
    return next((run.machine.num_threads for run in reversed(runs) if run.machine is not None), None)


def with_threads(job: FilmJob, numbers: Sequence[int | None]) -> FilmJob:
    """Return the job with CPU threads for every run.

    Args:
        numbers: One for each run, or none; None takes that of its plan, and else as many as torch uses.
    """
    plans = [
        replace(run.plan, num_threads=number or run.plan.num_threads or torch.get_num_threads())
        for run, number in zip(job.runs, numbers or [None] * len(job.runs), strict=True)
    ]
    runs = tuple(replace(run, plan=plan) for run, plan in zip(job.runs, plans, strict=True))
    return replace(job, runs=runs)


def with_dtypes(job: FilmJob, begun: Sequence[DtypeName | None], reporter: Reporter) -> FilmJob:
    """Return the job in the data types that its unfinished runs began in, where none is named.

    Args:
        begun: That of every run, from `begun_dtypes`; nothing is changed if there are more or fewer.
        reporter: Receives a note if one is not this machine's choice.
    """
    if len(begun) != len(job.runs):
        return job
    runs = [
        replace(run, plan=_in_dtype(run.plan, dtype)) if dtype and run.plan.has_default_dtype else run
        for run, dtype in zip(job.runs, begun, strict=True)
    ]
    others = [
        run.plan.dtype for run, now in zip(runs, job.runs, strict=True) if run.plan.dtype != now.plan.dtype
    ]
    if others:
        reporter.note(f"computing in {others[0]}, as the run began")
    return replace(job, runs=tuple(runs))


def _in_dtype(plan: RunPlan, dtype: DtypeName) -> RunPlan:
    backend = plan.recipe.backend.model_copy(update={"dtype": dtype})
    return replace(plan, dtype=dtype, recipe=plan.recipe.model_copy(update={"backend": backend}))


def report_threads(job: FilmJob, *, began_with: Sequence[int], is_asked: bool, reporter: Reporter) -> FilmJob:
    """Report CPU threads that are not those that torch is set to, or that an unfinished run began with.

    Args:
        began_with: CPU threads with which every run of the job began; empty if they are not known.
        is_asked: Whether the number was asked for.

    Returns:
        The job, with a doubt if frames may differ from those of an uninterrupted run.
    """
    usual = torch.get_num_threads()
    chosen = [plan.num_threads for plan in job.plans]
    others = [number for number, now in zip(began_with, chosen, strict=False) if number != now]
    if others:
        began, now = (name_threads(number) for number in (others[0], chosen[-1] or usual))
        doubt = f"the run began with {began} and continues with {now}; frames may differ from those of an"
        job = replace(job, doubts=(*job.doubts, f"{doubt} uninterrupted run"))
        reporter.warn(job.doubts[-1])
    if not is_asked and set(chosen) != {usual}:
        recorded = " and ".join(map(str, dict.fromkeys(chosen)))
        plural = "s" * (recorded != "1")
        reporter.note(f"computing with {recorded} CPU thread{plural}, as recorded; torch is set to {usual}")
    return job


def differences(runs: Sequence[RunRecord], plan: RunPlan, *, num_threads: int | None = None) -> list[str]:
    """Describe how versions and machine differ from those that made a film, each with both values.

    Args:
        runs: The film's runs.
        plan: The plan of the last of them here.
        num_threads: CPU threads that were asked for; None for those of each run.
    """
    versions = installed_versions(plan.backend)
    found = []
    for run in runs:
        found += [
            f"{name} {old} (here {versions.get(name, 'none')})"
            for name, old in run.versions.items()
            if name != _NO_FRAMES and versions.get(name) != old
        ]
        if run.machine is None:
            continue
        dtypes = [run.parameters.get(name) for name in ("dtype", "vae_dtype")]
        machine = this_machine(plan.device, dtypes=dtypes, num_threads=run.machine.num_threads)
        pairs = [(run.machine.processor, machine.processor), (run.machine.gpu, machine.gpu)]
        found += [f"{old or 'no GPU'} (here {new or 'none'})" for old, new in pairs if old != new]
        if num_threads not in (None, run.machine.num_threads):
            found.append(f"{name_threads(run.machine.num_threads)} (here {num_threads})")
    return [printable(text, limit=_LONGEST_NAME) for text in dict.fromkeys(found)]
