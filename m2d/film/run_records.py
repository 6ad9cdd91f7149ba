"""Descriptions of a run: its request for the journal, its provenance, and the files of its run folder.

All are built in memory; `make` writes them. P frames, H W height and width, C colour channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m2d.diffusion.step_cache import StepCacheReport
from m2d.enlarging import Enlarging
from m2d.film.context_frames import FRAMES, kept_frames_bytes
from m2d.film.journal_folder import DENOISER, MACHINES
from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.film.output_scenes import OutputScene
from m2d.film.recipe_record import recipe_record
from m2d.fit import FilmFit
from m2d.pipeline.machine import this_machine
from m2d.recipe.plan import RunPlan
from m2d.video.digests import array_digest
from m2d.video.encode import encoding_id
from m2d.video.lineage import stale
from m2d.video.printable import counted
from m2d.video.provenance import (
    ModelRecord,
    Provenance,
    RunKind,
    RunRecord,
    SceneRecord,
    WindowRecord,
    name_threads,
)
from m2d.video.provenance_builder import MadeScene, build_provenance, build_run_record
from m2d.video.run_folder import LATENTS, SHEET, latents_bytes
from m2d.video.sheet import sheet_png
from m2d.video.video_record import FilmRecord


def record_of(kind: RunKind, plan: RunPlan) -> RunRecord:
    """Build the record of a run, before any work, so that a private path is rejected at once.

    Raises: as `build_run_record`.
    """
    num_threads = plan.num_threads or torch.get_num_threads()
    return build_run_record(
        kind=kind,
        recipe=recipe_record(plan.recipe),
        parameters=_parameters_of(plan),
        model=ModelRecord(name=plan.source.name, digest=plan.source.digest),
        windows=[
            WindowRecord(
                scenes=tuple(plan.first_scene + scene for scene in part.window.scenes),
                targets=tuple(plan.first_scene + scene for scene in part.window.targets),
                layout_digest=part.layout.digest(),
            )
            for part in plan.windows
        ],
        machine=this_machine(plan.device, dtypes=(plan.dtype, plan.vae_dtype), num_threads=num_threads),
    )


def request_of(
    records: Sequence[RunRecord], plans: Sequence[RunPlan], film: LoadedFilm | None, *, only_new: bool
) -> dict[str, Any]:
    """Return everything a film depends on except package versions.

    A run that is resumed on another processor is warned about, and keeps its number of threads.
    """
    return {
        "runs": [
            record.model_dump(mode="json", exclude={"versions", "machine"})
            | {DENOISER: plan.source.denoising_digest(with_vae=_denoises_with_vae(plan, film))}
            for record, plan in zip(records, plans, strict=True)
        ],
        MACHINES: [record.machine.model_dump(mode="json") for record in records if record.machine],
        "film": None if film is None else _film_request(film),
        "only_new": only_new,
    }


def _denoises_with_vae(plan: RunPlan, film: LoadedFilm | None) -> bool:
    """Whether frames are encoded, or latents decoded, before all scenes are denoised."""
    is_given_frames = film is not None and any(scene.latents_FCHW is None for scene in film.scenes)
    starts = [plan.scenes[number] for number in plan.targets]
    return is_given_frames or any(scene.image or scene.join.kind == "continue" for scene in starts)


def with_speeds(
    records: Sequence[RunRecord], plans: Sequence[RunPlan], speeds: Mapping[int, StepCacheReport]
) -> list[RunRecord]:
    """Add what step caching skipped, and the estimated error, to the record of each run.

    Windows are counted over all runs in `speeds`.
    """
    updated, first = [], 0
    for record, plan in zip(records, plans, strict=True):
        windows = range(first, first + len(plan.windows))
        first += len(plan.windows)
        reports = [speeds[window] for window in windows if window in speeds]
        parameters = {**record.parameters, **_speed_parameters(reports)}
        updated.append(record.model_copy(update={"parameters": parameters}) if reports else record)
    return updated


def _speed_parameters(reports: Sequence[StepCacheReport]) -> dict[str, Any]:
    errors = [error for report in reports for error in report.errors]
    return {
        "num_steps_foretold": sum(report.num_skipped for report in reports),
        "foretold_error_mean": sum(errors) / len(errors) if errors else None,
        "foretold_error_max": max(errors, default=None),
    }


def facts_of(plan: RunPlan) -> list[str]:
    """Return short facts about how a film was made."""
    seeds = sorted({scene.seed for scene in plan.scenes if scene.seed is not None})
    return [
        # Only the name: a sheet is passed on, and the folder of the model is private.
        Path(plan.source.name).name,
        f"mask {plan.layout.mask}",
        counted(plan.sampling.num_inference_steps, "step"),
        f"speed {plan.sampling.speed}",
        *([f"seed {', '.join(map(str, seeds))}"] if seeds else []),
        *(f"LoRA {choice}" for choice in plan.recipe.loras),
        f"{plan.backend} on {plan.device} in {plan.dtype}"
        + ("" if plan.quantized is None else f", weights in {plan.quantized.kind}"),
        *([name_threads(plan.num_threads)] if plan.num_threads else []),
    ]


def _parameters_of(plan: RunPlan) -> Mapping[str, Any]:
    """Return the resolved parameters; lists have one entry per target scene.

    Prompts and negative prompts are in the records of the scenes.
    """
    targets = [plan.scenes[scene] for scene in plan.targets]
    return {
        "mask": plan.layout.mask,
        "num_frames_per_scene": [scene.num_frames for scene in targets],
        "height": plan.scene_geometry.height,
        "width": plan.scene_geometry.width,
        "fps": plan.fps,
        "upscale": plan.upscale,
        "scheduler": plan.sampling.scheduler or "the model's own",
        "num_inference_steps": plan.sampling.num_inference_steps,
        **({"dynamic_guidance": True} if plan.sampling.dynamic_guidance else {}),
        "cfg": plan.sampling.cfg,
        "speed": plan.sampling.speed,
        "guidance_scales": [scene.guidance_scale for scene in targets],
        "backend": plan.backend,
        "device": plan.device,
        "dtype": plan.dtype,
        **({} if plan.vae_dtype == "float32" else {"vae_dtype": plan.vae_dtype}),
        **({} if plan.quantized is None else {"quantize": plan.quantized.identity}),
    }


def _film_request(film: LoadedFilm) -> dict[str, Any]:
    # The digest of a film of m2d covers how it fits.
    is_fitted = film.fit is not None and film.digest is None
    return {
        **({"fit": "film"} if is_fitted else {}),
        "digest": film.digest,
        "cuts_s": None if film.cuts_s is None else list(film.cuts_s),
        "file_sha256": film.file_sha256,
        "scenes": [{"prompt": scene.plan.prompt, "sha256": _digest_of(scene)} for scene in film.scenes],
    }


def _digest_of(scene: LoadedScene) -> str:
    """Digest the loaded latents or frames; latents encoded from frames may vary with package versions."""
    if scene.latents_FCHW is not None:
        return array_digest(scene.latents_FCHW)
    if scene.frames_PHWC is not None:
        return array_digest(scene.frames_PHWC)
    # An external scene outside the context is identified by its file and its cuts.
    return counted(scene.plan.num_frames, "frame") if scene.record is None else scene.record.frames_sha256


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

    Raises: as `build_provenance`.
    """
    *earlier, last = records
    if is_tiled:
        last = last.model_copy(update={"parameters": {**last.parameters, "decoding": "tiled"}})
    provenance = build_provenance(
        title=plan.title,
        runs=[*(film.runs if film is not None else ()), *earlier, last],
        scenes=[scene.made for scene in kept],
        fps=plan.fps,
        upscale=Enlarging(plan.upscale, plan.upscale_filter) if plan.upscale > 1 else Enlarging(1),
        first_scene=plan.first_scene + first_kept,
        parents=[film.digest] if film is not None and film.digest is not None else [],
        encoding=encoding_id(),
    )
    if plan.fit is None:
        return provenance
    fitted = provenance.video.model_copy(update={"film": _film_record(plan.fit)})
    return provenance.model_copy(update={"video": fitted})


def _film_record(fit: FilmFit) -> FilmRecord:
    return FilmRecord(
        width=fit.width,
        height=fit.height,
        fps=fit.fps.as_integer_ratio(),
        pixel_aspect=fit.pixel_aspect.as_integer_ratio(),
    )


def files_of(
    plan: RunPlan, film: LoadedFilm | None, kept: Sequence[OutputScene], provenance: Provenance
) -> dict[str, bytes]:
    """Return the files of the run folder, name to bytes; arguments as for `provenance_of`."""
    scenes = [scene.made for scene in kept]
    files = {
        LATENTS: latents_bytes([scene.latents_FCHW for scene in scenes]),
        SHEET: sheet_png(
            [
                replace(scene.on_sheet(upscale=plan.upscale), note="; ".join(stale(provenance, number)))
                for number, scene in enumerate(kept)
            ],
            title=plan.title,
            facts=facts_of(plan),
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
