"""The film's provenance and the files of its run folder, built in memory; `make` writes them."""

# P frames, H W height and width, C colour channels

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2d.film.context_frames import FRAMES, kept_frames_bytes
from m2d.film.loaded_film import LoadedFilm
from m2d.film.output_scenes import OutputScene
from m2d.film.run_records import facts_of
from m2d.recipe.plan import RunPlan
from m2d.video.encode import encoding_id
from m2d.video.provenance import Provenance, RunRecord, SceneRecord
from m2d.video.provenance_builder import MadeScene, build_provenance
from m2d.video.run_folder import LATENTS, SHEET, latents_bytes
from m2d.video.sheet import sheet_png


def provenance_of(
    plan: RunPlan,
    film: LoadedFilm | None,
    records: Sequence[RunRecord],
    kept: Sequence[OutputScene],
    *,
    first_kept: int,
    is_tiled: bool,
) -> Provenance:
    """Build the provenance of a film.

    Args:
        plan: The plan of the last run.
        film: The film that the first run started from.
        records: The records of the runs, in order.
        kept: The scenes of the output.
        first_kept: Number of the first of them in the plan.
        is_tiled: Whether a scene was decoded in tiles, the one decode strategy that changes the frames.

    Raises:
        PrivacyError: The provenance would contain a path, host or user name.
    """
    *earlier, last = records
    if is_tiled:
        last = last.model_copy(update={"parameters": {**last.parameters, "decoding": "tiled"}})
    return build_provenance(
        title=plan.title,
        runs=[*(film.runs if film is not None else ()), *earlier, last],
        scenes=[scene.made for scene in kept],
        fps=plan.fps,
        upscale=plan.upscale,
        first_scene=plan.first_scene + first_kept,
        parents=[film.digest] if film is not None and film.digest is not None else [],
        encoding=encoding_id(),
    )


def files_of(
    plan: RunPlan, film: LoadedFilm | None, kept: Sequence[OutputScene], provenance: Provenance
) -> dict[str, bytes]:
    """Return the files of the run folder, name to bytes; arguments as for `provenance_of`."""
    scenes = [scene.made for scene in kept]
    files = {
        LATENTS: latents_bytes([scene.latents_FCHW for scene in scenes]),
        SHEET: sheet_png(
            [scene.on_sheet(upscale=plan.upscale) for scene in kept],
            title=plan.title,
            facts=facts_of(plan, plan.scenes),
            older=b"" if film is None else film.sheet,
        ),
    }
    external = {
        number: frames_PHWC
        for number, (scene, record) in enumerate(zip(scenes, provenance.scenes, strict=True))
        if provenance.runs[record.run].kind == "footage"
        and (frames_PHWC := _context_frames(scene, record)) is not None
    }
    return files | ({FRAMES: kept_frames_bytes(external)} if external else {})


def _context_frames(scene: MadeScene, record: SceneRecord) -> np.ndarray | None:
    """Return the frames of an external scene that a model was given as context."""
    if record.clip_frames is None or scene.frames_PHWC is None:
        return scene.frames_PHWC
    return None if record.clip_sha256 is None else scene.frames_PHWC[-record.clip_frames :]
