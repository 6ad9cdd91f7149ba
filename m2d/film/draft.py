"""Drafts: a contact sheet of a film after few denoising steps, drawn before the real run.

A draft is not resumable, and the real run reuses nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from m2d.backend import Backend
from m2d.files import nameless_file, write_bytes
from m2d.film.job import FilmJob, check_backend, make_scenes
from m2d.film.loaded_film import LoadedFilm
from m2d.film.run_records import facts_of
from m2d.film.transcode import transcode_scenes
from m2d.folders import make_folder
from m2d.pipeline.scenes import ScenePipeline
from m2d.progress import Clock, Reporter
from m2d.recipe.plan import RunPlan
from m2d.video.run_folder import run_folder_of
from m2d.video.sheet import sheet_png

DRAFT_STEPS = 8
"""Number of denoising steps of a draft: enough to see the composition."""
DRAFT = "draft.png"


def draw_draft(job: FilmJob, backend: Backend, *, reporter: Reporter) -> Path:
    """Draw the contact sheet of a job's film, after few steps, into the film's run folder.

    Returns:
        The sheet's path, which is also reported as a note.

    Raises:
        M2DError: See `make_film`; a draft opens no journal.
    """
    runs = tuple(replace(run, plan=_as_draft(run.plan)) for run in job.runs)
    quick = replace(job, runs=runs, keeps=_drawable(job))
    plan, clock = quick.plan, Clock(reporter)
    check_backend(quick.plans, backend)
    film = quick.film
    with nameless_file(plan.output.absolute().parent) as scratch:
        if film is not None and _needs_transcoding(film, quick.plans):
            quick = replace(quick, film=transcode_scenes(film, scratch, output=plan.output, clock=clock))
        pipeline = ScenePipeline(plan.source, backend, device=plan.device, clock=clock)
        _, assembled = make_scenes(quick, pipeline)
        sheet = sheet_png(
            [scene.on_sheet(upscale=plan.upscale) for scene in quick.kept(assembled)],
            title=plan.title,
            facts=["draft", *facts_of(plan)],
        )
    path = run_folder_of(plan.output) / DRAFT
    make_folder(path.parent)
    write_bytes(path, sheet)
    reporter.note(f"draft: {path}")
    return path


def _needs_transcoding(film: LoadedFilm, plans: Sequence[RunPlan]) -> bool:
    """Whether the context of a window includes a scene that has to be transcoded first."""
    context = {scene for plan in plans for part in plan.windows for scene in part.window.context}
    return film.to_transcode is not None and any(
        film.scenes[scene].is_film_only for scene in context if scene < len(film.scenes)
    )


def _drawable(job: FilmJob) -> range | None:
    """Return the scenes for the sheet: those after the last one that only the real run transcodes."""
    film = job.film
    if film is None or film.to_transcode is None:
        return job.keeps
    missing = [number for number, scene in enumerate(film.scenes) if scene.is_film_only]
    return range(max(job.first_kept, max(missing, default=-1) + 1), len(job.plan.scenes))


def _as_draft(plan: RunPlan) -> RunPlan:
    steps = min(DRAFT_STEPS, plan.sampling.num_inference_steps)
    return replace(plan, sampling=plan.sampling.model_copy(update={"num_inference_steps": steps}))
