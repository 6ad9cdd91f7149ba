"""Disk space that a run needs, estimated and checked before any work.

The estimate is the expected size, not an upper bound; a run whose disk fills up can be resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from m2d.film.journal_folder import files_of, journal_folder_of
from m2d.film.loaded_film import LoadedFilm
from m2d.folders import check_free_space
from m2d.recipe.plan import RunPlan
from m2d.video.sheet import FRAMES_PER_SCENE, MOST_ROWS, width_of_frames

_LATENT_BYTES = 4
# Measured on puppet films. Photographs need twice as much, but then a sheet is small beside its film.
_SHEET_BYTES_PER_PIXEL = 0.9
# The film and the muxer's copy; scenes transcoded from another film are written once more.
_FILM_COPIES = 2
# One copy in the journal and one in the run folder.
_KEPT_COPIES = 2
# A new state file replaces the old one; each holds a window's latents and a multistep scheduler's history of
# the same size.
_STEP_COPIES = 4


def check_disk_space(plans: Sequence[RunPlan], film: LoadedFilm | None) -> None:
    """Check that the disk has room for the film, its run folder and the journal.

    This process holds the lock on the last plan's output.

    Raises:
        OutputError: The disk has too little free space.
    """
    plan = plans[-1]
    journal = sum(path.stat().st_size for path in files_of(journal_folder_of(plan.output)))
    needed_bytes = predicted_bytes(plans, film) - journal
    check_free_space(plan.output.absolute().parent, max(needed_bytes, 0))


def predicted_bytes(plans: Sequence[RunPlan], film: LoadedFilm | None) -> int:
    """Predict the peak of bytes on disk, which is just before the journal is removed."""
    plan = plans[-1]
    latents = _latents_bytes(plan, range(len(plan.scenes)))
    windows = sum(_latents_bytes(each, part.window.targets) for each in plans for part in each.windows)
    step = max(_latents_bytes(each, part.window.scenes) for each in plans for part in each.windows)
    frames = sum(
        scene.frames_PHWC.nbytes
        for scene in (film.scenes if film is not None else ())
        if scene.frames_PHWC is not None
    )
    kept = latents + frames + _sheet_bytes(plan)
    video = film.to_transcode if film is not None else None
    transcoded = 0.0 if video is None else video.num_frames / plan.num_frames
    written = round((_FILM_COPIES + min(transcoded, 1.0)) * plan.predicted_size_bytes)
    return written + windows + _STEP_COPIES * step + _KEPT_COPIES * kept


def _latents_bytes(plan: RunPlan, scenes: Sequence[int]) -> int:
    shapes = [plan.scenes[scene].geometry for scene in scenes]
    num_values = sum(shape.num_latent_frames * shape.latent_height * shape.latent_width for shape in shapes)
    return num_values * plan.source.geometry.latent_channels * _LATENT_BYTES


def _sheet_bytes(plan: RunPlan) -> int:
    shape = plan.scene_geometry
    num_rows = min(len(plan.scenes), MOST_ROWS)
    width = width_of_frames(num_rows, num_columns=FRAMES_PER_SCENE)
    row_pixels = FRAMES_PER_SCENE * width * width * shape.height // shape.width
    return round(num_rows * row_pixels * _SHEET_BYTES_PER_PIXEL)
