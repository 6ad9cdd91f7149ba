"""A film to make: the runs that make it, the film they begin with, and the scenes that are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2d.film.assembly import Assembled
from m2d.film.loaded_film import LoadedFilm
from m2d.film.output_scenes import ShownScene, shown_scenes
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan
from m2d.video.provenance import RunKind


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One run of a job."""

    kind: RunKind
    plan: RunPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmJob:
    """What is to be made.

    Attributes:
        runs: In order, each adding to or changing the film that the ones before it left; all on one backend
            and one device. The last one's plan says how and where the film is written.
        film: The film that the first run adds to or changes.
        keeps: Scenes of the film that are written; None for all.
    """

    runs: tuple[PlannedRun, ...]
    film: LoadedFilm | None = None
    keeps: range | None = None

    @property
    def plan(self) -> RunPlan:
        """The last run's plan."""
        return self.runs[-1].plan

    @property
    def plans(self) -> list[RunPlan]:
        """All runs' plans."""
        return [run.plan for run in self.runs]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user probably wants to change, each thing once."""
        return tuple(dict.fromkeys(warning for plan in self.plans for warning in plan.warnings))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the film that is gone on from."""
        return self.film.notes if self.film is not None else ()

    @property
    def first_kept(self) -> int:
        """The first scene that is written."""
        return 0 if self.keeps is None else self.keeps.start

    @property
    def window_steps(self) -> list[int]:
        """Denoising steps of every window."""
        return [plan.sampling.num_inference_steps for plan in self.plans for _ in plan.windows]

    @property
    def made_by(self) -> list[int]:
        """For every scene the index, among all runs of the film, of the one that made it."""
        film = self.film
        made_by = {} if film is None else {number: scene.run for number, scene in enumerate(film.scenes)}
        for index, plan in enumerate(self.plans, start=0 if film is None else len(film.runs)):
            made_by |= dict.fromkeys(plan.targets, index)
        return [made_by[number] for number in range(len(self.plan.scenes))]

    def kept(self, assembled: Assembled) -> list[ShownScene]:
        """The scenes that are written, as they are shown; the first of them joins nothing."""
        kept = range(len(assembled.scenes)) if self.keeps is None else self.keeps
        return shown_scenes(
            [assembled.scenes[number] for number in kept],
            {place: assembled.copies.get(number) for place, number in enumerate(kept)},
        )


def headline(job: FilmJob) -> str:
    """What is going to be made, in one line: `A walk: scene 4 of 4, builtin:puppet with eager on cpu`."""
    plan = job.plan
    first = job.first_kept
    made = sorted({scene - first + 1 for each in job.plans for scene in each.targets})
    scenes = f"scene{'s' if len(made) > 1 else ''} {', '.join(map(str, made))}"
    total = len(plan.scenes) - first
    name = Path(plan.source.name).name
    return f"{plan.title}: {scenes} of {total}, {name} with {plan.backend} on {plan.device}"


def announce(job: FilmJob, reporter: Reporter) -> None:
    """Tell what was found out before any work."""
    for note in job.notes:
        reporter.note(note)
    for warning in job.warnings:
        reporter.warn(warning)
