"""How much room a production needs on the disk of its output, checked before any work.

Owns the estimate: what is to be expected, not the worst that can happen. A run whose disk fills up all the
same keeps what it has and can be resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from m2d.film.journal_folder import files_of, journal_folder_of
from m2d.film.loaded_film import LoadedFilm
from m2d.folders import check_free_space
from m2d.recipe.plan import RunPlan
from m2d.video.sheet import FRAME_WIDTH, FRAMES_PER_SCENE, MOST_ROWS

_LATENT_BYTES = 4
# Of puppet films; even areas of photographs need twice as much, and a sheet is small beside its film then.
_SHEET_BYTES_PER_PIXEL = 0.5
_FILM_COPIES = 2
# In the journal, as what is about to be written, and in the run folder.
_KEPT_COPIES = 2
# Between two steps, one file replaces another; in each are the latents of a window, and as much again of what
# a multistep scheduler remembers.
_STEP_COPIES = 4


def check_disk_space(plans: Sequence[RunPlan], film: LoadedFilm | None) -> None:
    """Make sure that there is room for the film, its run folder and the journal.

    Args:
        plans: The runs; the last one's output is written, and is held by this process.
        film: The film that is gone on from.

    Raises:
        OutputError: The disk has less free than is needed.
    """
    plan = plans[-1]
    journal = sum(path.stat().st_size for path in files_of(journal_folder_of(plan.output)))
    needed_bytes = predicted_bytes(plans, film) - journal
    check_free_space(plan.output.absolute().parent, max(needed_bytes, 0))


def predicted_bytes(plans: Sequence[RunPlan], film: LoadedFilm | None) -> int:
    """Bytes on disk when most is there: just before the journal is removed."""
    plan = plans[-1]
    whole = _latents_bytes(plan, range(len(plan.scenes)))
    windows = sum(_latents_bytes(each, part.window.targets) for each in plans for part in each.windows)
    step = max(_latents_bytes(each, part.window.scenes) for each in plans for part in each.windows)
    frames = sum(
        scene.frames_PHWC.nbytes
        for scene in (film.scenes if film is not None else ())
        if scene.frames_PHWC is not None
    )
    kept = whole + frames + _sheet_bytes(plan)
    return _film_bytes(plan, film) + windows + _STEP_COPIES * step + _KEPT_COPIES * kept


def _film_bytes(plan: RunPlan, film: LoadedFilm | None) -> int:
    """The film, what the muxer wrote before that was copied, and what is taken over from another film."""
    stream = film.stream if film is not None else None
    taken = 0.0 if stream is None else stream.num_frames / plan.num_frames
    return round((_FILM_COPIES + min(taken, 1.0)) * plan.predicted_size_bytes)


def _latents_bytes(plan: RunPlan, scenes: Sequence[int]) -> int:
    shapes = [plan.scenes[scene].geometry for scene in scenes]
    num_values = sum(shape.num_latent_frames * shape.latent_height * shape.latent_width for shape in shapes)
    return num_values * plan.source.geometry.latent_channels * _LATENT_BYTES


def _sheet_bytes(plan: RunPlan) -> int:
    shape = plan.scene_geometry
    row_pixels = FRAMES_PER_SCENE * FRAME_WIDTH * FRAME_WIDTH * shape.height // shape.width
    return round(min(len(plan.scenes), MOST_ROWS) * row_pixels * _SHEET_BYTES_PER_PIXEL)
