"""Drafts: a contact sheet of a film after its first denoising steps, drawn before the others are taken.

The estimate after three fifths of the steps shows where everything stands in the finished film. It comes from
the film's own noise, scheduler and steps, so that the run resumes after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from m2d.diffusion.denoise import DenoiseState
from m2d.files import nameless_file, write_bytes
from m2d.film.job import FilmJob, draft_scenes
from m2d.film.loaded_film import LoadedFilm
from m2d.film.run_records import facts_of
from m2d.film.transcode import transcode_scenes
from m2d.folders import make_folder
from m2d.pipeline.observer import Observer, ResumePoint
from m2d.pipeline.scenes import ScenePipeline
from m2d.recipe.plan import RunPlan
from m2d.video.printable import counted
from m2d.video.run_folder import run_folder_of
from m2d.video.sheet import sheet_png

DRAFT_SHARE = 0.6
"""Share of the steps of a draft; `benchmarks.drafts` measures how well it predicts the film."""
DRAFT = "draft.png"


def draft_path(film: Path) -> Path:
    """Return the path of a film's draft."""
    return run_folder_of(film) / DRAFT


def draw_draft(
    job: FilmJob, pipeline: ScenePipeline, *, resume: ResumePoint, observer: Observer
) -> DenoiseState:
    """Draw the contact sheet of a job's film, after its first steps, into the film's run folder.

    The sheet's path is reported as a note.

    Args:
        resume: What is finished; at least one window is not.

    Returns:
        The state of the first unfinished window, from which the run resumes.

    Raises:
        M2DError: See `make_film`.
    """
    drawn = replace(job, keeps=_drawable(job))
    plan, film = job.plan, job.film
    with nameless_file(plan.output.absolute().parent) as scratch:
        if film is not None and _needs_transcoding(film, job.plans):
            copied = transcode_scenes(film, scratch, output=plan.output, clock=pipeline.clock)
            drawn = replace(drawn, film=copied)
        draft, assembled = draft_scenes(drawn, pipeline, resume=resume, share=DRAFT_SHARE, observer=observer)
        sheet = sheet_png(
            [scene.on_sheet(upscale=plan.upscale) for scene in drawn.kept(assembled)],
            title=plan.title,
            facts=[f"draft after {counted(draft.state.steps_done, 'step')}", *facts_of(plan)],
        )
    path = draft_path(plan.output)
    make_folder(path.parent)
    write_bytes(path, sheet)
    pipeline.clock.reporter.note(f"draft: {path}")
    return draft.state


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
