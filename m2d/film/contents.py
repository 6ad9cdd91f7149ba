"""What a production leaves: the film's provenance, and the files of its run folder.

Owns what goes into them; writing, and in which order, is `production`'s.
"""

# P frames, H W height and width, C colour channels

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2d.film.context_frames import FRAMES, kept_frames_bytes
from m2d.film.loaded_film import LoadedFilm
from m2d.film.output_scenes import ShownScene
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
    kept: Sequence[ShownScene],
    *,
    first_kept: int,
    is_tiled: bool,
) -> Provenance:
    """Write down where the film comes from.

    Args:
        plan: The last run's.
        film: The film that this one begins with.
        records: The runs, in order.
        kept: The scenes of the film.
        first_kept: Number, in the plan, of the first of them.
        is_tiled: Whether a scene was decoded in tiles, the one way of decoding that gives other frames.

    Raises:
        PrivacyError: A path, host or user name would be in it.
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
    plan: RunPlan, film: LoadedFilm | None, kept: Sequence[ShownScene], provenance: Provenance
) -> dict[str, bytes]:
    """Return what goes into the run folder, by name; arguments as `provenance_of` has them."""
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
    footage = {
        number: frames_PHWC
        for number, (scene, told) in enumerate(zip(scenes, provenance.scenes, strict=True))
        if provenance.runs[told.run].kind == "footage"
        and (frames_PHWC := _kept_frames(scene, told)) is not None
    }
    return files | ({FRAMES: kept_frames_bytes(footage)} if footage else {})


def _kept_frames(scene: MadeScene, told: SceneRecord) -> np.ndarray | None:
    """What is kept of footage: what a model was given of it."""
    if told.clip_frames is None or scene.frames_PHWC is None:
        return scene.frames_PHWC
    return None if told.clip_sha256 is None else scene.frames_PHWC[-told.clip_frames :]
