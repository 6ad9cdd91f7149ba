"""A film to make: its runs, the film they start from, and the scenes to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from m2d.backend import Backend
from m2d.backend_checks import require_available
from m2d.film.assembly import AssembledFilm, assemble
from m2d.film.loaded_film import LoadedFilm
from m2d.film.output_scenes import OutputScene, fitted_scenes, output_scenes
from m2d.pipeline.graphs import check_graphs
from m2d.pipeline.observer import SILENT, Observer, ResumePoint
from m2d.pipeline.scenes import DenoisedScenes, DraftScenes, GivenScene, ScenePipeline
from m2d.progress import Clock, Reporter
from m2d.recipe.plan import RunPlan
from m2d.video.provenance import RunKind


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One run of a job."""

    kind: RunKind
    plan: RunPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmJob:
    """The runs that make one film.

    Attributes:
        runs: The runs in order, all on one backend and device; each extends or changes the film that the runs
            before it made. The last plan describes the output.
        film: The film that the first run starts from.
        keeps: The scenes to write; None for all.
        hints: Notes on the request, reported after those on the input film.
        doubts: Warnings that frames may differ from those of an earlier run.
    """

    runs: tuple[PlannedRun, ...]
    film: LoadedFilm | None = None
    keeps: range | None = None
    hints: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def plan(self) -> RunPlan:
        """The plan of the last run."""
        return self.runs[-1].plan

    @property
    def plans(self) -> list[RunPlan]:
        """The plans of all runs."""
        return [run.plan for run in self.runs]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all plans, without duplicates, and the doubts."""
        of_plans = [warning for plan in self.plans for warning in plan.warnings]
        return tuple(dict.fromkeys([*of_plans, *self.doubts]))

    @property
    def notes(self) -> tuple[str, ...]:
        """How the input film was converted."""
        return self.film.notes if self.film is not None else ()

    @property
    def first_kept(self) -> int:
        """The first scene to write."""
        return 0 if self.keeps is None else self.keeps.start

    @property
    def window_steps(self) -> list[int]:
        """Number of denoising steps of every window."""
        return [plan.sampling.num_inference_steps for plan in self.plans for _ in plan.windows]

    @property
    def made_by(self) -> list[int]:
        """For every scene, the index of the run that made it, counted over all runs of the film."""
        film = self.film
        made_by = {} if film is None else {number: scene.run for number, scene in enumerate(film.scenes)}
        for index, plan in enumerate(self.plans, start=0 if film is None else len(film.runs)):
            made_by |= dict.fromkeys(plan.targets, index)
        return [made_by[number] for number in range(len(self.plan.scenes))]

    @property
    def threads_of_scenes(self) -> dict[int, int | None]:
        """CPU threads of the run that made each scene; the first run's where that is not recorded."""
        runs = self.film.runs if self.film is not None else ()
        recorded = [None if run.machine is None else run.machine.num_threads for run in runs]
        numbers = [*recorded, *(plan.num_threads for plan in self.plans)]
        return {number: numbers[run] or numbers[len(runs)] for number, run in enumerate(self.made_by)}

    def kept(self, assembled: AssembledFilm) -> list[OutputScene]:
        """Return the scenes to write, crossfades blended; the first of them has no transition."""
        kept = range(len(assembled.scenes)) if self.keeps is None else self.keeps
        scenes = [assembled.scenes[number] for number in kept]
        copies = {place: assembled.copies.get(number) for place, number in enumerate(kept)}
        if self.plan.fit is None:
            return output_scenes(scenes, copies)
        encoded = {place: assembled.encoded.get(number) for place, number in enumerate(kept)}
        return fitted_scenes(scenes, copies, encoded=encoded, fit=self.plan.fit)


def headline(job: FilmJob) -> str:
    """Describe a job in one line: `A walk: scene 4 of 4, builtin:puppet with eager on cpu`."""
    plan = job.plan
    first = job.first_kept
    made = sorted({scene - first + 1 for each in job.plans for scene in each.targets})
    scenes = f"scene{'s' if len(made) > 1 else ''} {', '.join(map(str, made))}"
    total = len(plan.scenes) - first
    name = Path(plan.source.name).name
    return f"{plan.title}: {scenes} of {total}, {name} with {plan.backend} on {plan.device}"


def announce(job: FilmJob, reporter: Reporter) -> None:
    """Report the notes, warnings and hints of a job."""
    for note in job.notes:
        reporter.note(note)
    for warning in job.warnings:
        reporter.warn(warning)
    for hint in job.hints:
        reporter.note(hint)


def make_scenes(
    job: FilmJob,
    pipeline: ScenePipeline,
    *,
    resume: ResumePoint | None = None,
    observer: Observer = SILENT,
) -> tuple[DenoisedScenes, AssembledFilm]:
    """Denoise the new scenes of a job, and decode them; arguments and errors as `ScenePipeline.denoise`."""
    denoised = pipeline.denoise(job.plans, given=_given(job), resume=resume, observer=observer)
    clock = pipeline.clock
    return denoised, _assembled(job, pipeline, denoised.latents_FCHW, clock=clock, observer=observer)


def draft_scenes(
    job: FilmJob, pipeline: ScenePipeline, *, resume: ResumePoint, share: float, observer: Observer = SILENT
) -> tuple[DraftScenes, AssembledFilm]:
    """Estimate the new scenes of a job, and decode the estimates; see `ScenePipeline.draft`."""
    drawn = pipeline.draft(job.plans, given=_given(job), resume=resume, share=share, observer=observer)
    # A clock of its own: decoding a draft is not part of the film's time.
    clock = Clock(pipeline.clock.reporter)
    return drawn, _assembled(job, pipeline, drawn.latents_FCHW, clock=clock, observer=observer)


def _given(job: FilmJob) -> dict[int, GivenScene]:
    return {} if job.film is None else job.film.given_scenes()


def _assembled(
    job: FilmJob,
    pipeline: ScenePipeline,
    latents_FCHW: Mapping[int, Tensor],
    *,
    clock: Clock,
    observer: Observer,
) -> AssembledFilm:
    # Decoding needs its memory.
    pipeline.release_transformer()
    return assemble(
        job.plan.scenes,
        latents_FCHW,
        runs=job.made_by,
        film=job.film,
        decoder=pipeline.decoder(job.threads_of_scenes),
        clock=clock,
        check_stop=observer.check_stop,
    )


def check_backend(plans: Sequence[RunPlan], backend: Backend) -> None:
    """Check that the backend can run plans here and has the graphs that they need.

    Raises: as `require_available` and `check_graphs`.
    """
    require_available(backend, plans[-1].device)
    check_graphs(plans, backend)
