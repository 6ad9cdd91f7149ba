"""Load a film of m2d: its scenes as latents from the run folder, or as frames if that is missing.

Encodes nothing; the pipeline encodes frames to latents. P frames, F latent frames, C channels, H W height and
width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from m2d.errors import InputError, Remedy
from m2d.families.source import ModelSource
from m2d.film.context_frames import num_context, read_kept_frames
from m2d.film.external import external_record
from m2d.film.journal_folder import has_journal, journal_folder_of
from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.film.recipe_record import loras_of_scene
from m2d.film.sound import sound_of
from m2d.geometry import GeometryError
from m2d.joins import Join
from m2d.recipe.plan import ScenePlan
from m2d.video.crop_resize import Turn, cover
from m2d.video.digests import array_digest
from m2d.video.encode import encoding_id
from m2d.video.external import ResampledVideo
from m2d.video.fitting import reduction
from m2d.video.packets import EncodedScene, ForeignPackets, read_scenes
from m2d.video.printable import printable
from m2d.video.provenance import Provenance, ProvenanceError, SceneRecord
from m2d.video.read import probe, read_spans
from m2d.video.run_folder import (
    LATENTS,
    RECORD,
    Run,
    RunFolderError,
    read_run,
    read_sheet,
    run_folder_of,
)
from m2d.video.video_record import VideoRecord


class ModelMismatch(InputError):
    """The film's latents belong to another model."""


def read_provenance(path: Path) -> Provenance | None:
    """Return the provenance of a film after comparing it with the film's index; None if there is none.

    Raises:
        FilmError: The file is not a video, or is incomplete.
        ProvenanceError: The provenance is corrupt or describes another film.
    """
    try:
        return probe(path).provenance
    except ProvenanceError as error:
        raise ProvenanceError(f"{path}: {error}") from error


def load_film(path: Path, source: ModelSource) -> LoadedFilm:
    """Load a film that m2d made.

    Args:
        path: The film.
        source: The model that continues it.

    Raises:
        FilmError: The file is not a video, or is incomplete.
        ProvenanceError: The provenance is corrupt or describes another film.
        ModelMismatch: The latents belong to another model.
        InputError: The film has no provenance, the model cannot make its size, its latents differ from the
            provenance, or the run that wrote it has not finished.
    """
    provenance = read_provenance(path)
    if provenance is None:
        raise InputError(f"{path}: was not made by m2d; it can be extended, but not re-rolled")
    plans = _scene_plans(path, provenance, source)
    encoded, notes = _encoded(path, provenance)
    sound, sound_notes = sound_of(path, _spans_s(provenance))
    common: dict[str, Any] = {
        "title": provenance.title,
        "digest": provenance.digest(),
        "first_scene": provenance.first_scene,
        "fps": round(provenance.video.fps),
        "upscale": provenance.video.upscale,
        "upscale_filter": provenance.video.upscale_filter,
        "sound": sound,
        "fit": provenance.video.fit,
    }
    run, reason = _run_of(path, provenance)
    if run is None:
        film = _from_frames(path, provenance, plans, reason=reason, **common)
    else:
        _check_model(path, provenance, source)
        _check_latents(path, run, plans, source)
        scenes, missing = _from_latents(path, run, plans)
        sheet = read_sheet(path)
        film = LoadedFilm(scenes=scenes, runs=provenance.runs, sheet=sheet, notes=missing, **common)
    scenes = tuple(replace(scene, encoded=part) for scene, part in zip(film.scenes, encoded, strict=True))
    uncopied = [
        number
        for number, scene in enumerate(scenes)
        if scene.encoded is None and (scene.is_film_only or scene.is_clipped)
    ]
    video = _video_of(path, provenance, uncopied) if uncopied else None
    return replace(film, scenes=scenes, to_transcode=video, notes=(*film.notes, *notes, *sound_notes))


def _spans_s(provenance: Provenance) -> list[tuple[float, float]]:
    """Return when the film shows each scene; the frames of a crossfade belong to both of its scenes."""
    fps = provenance.video.written_fps
    return [
        (scene.first_frame / fps, (scene.first_frame + scene.num_frames) / fps) for scene in provenance.scenes
    ]


def _scene_plans(path: Path, provenance: Provenance, source: ModelSource) -> list[ScenePlan]:
    video = provenance.video
    plans = []
    for number, record in enumerate(provenance.scenes, start=provenance.first_scene):
        try:
            shape = source.geometry.scene(
                num_frames=num_context(record), height=video.height, width=video.width
            )
        except GeometryError as error:
            raise InputError(
                f"{path}: {source.name} cannot continue scenes of {num_context(record)} frames of "
                f"{video.width}x{video.height}: {' '.join(str(error).split())}"
            ) from error
        plans.append(
            ScenePlan(
                prompt=record.prompt,
                negative_prompt=record.negative_prompt,
                guidance_scale=1.0 if record.guidance_scale is None else record.guidance_scale,
                seed=record.seed,
                geometry=shape,
                film_frames=None if record.clip_frames is None else record.num_frames,
                join=Join(kind=record.join, num_frames=record.overlap),
                match_colour=record.colour_map is not None,
                loras=loras_of_scene(provenance.runs[record.run], number),
            )
        )
    return plans


def _run_of(path: Path, provenance: Provenance) -> tuple[Run | None, str]:
    """Return the film's run folder, or the reason why it cannot be used."""
    try:
        run = read_run(path)
        reason = f"{run_folder_of(path)}: belongs to another run than the film"
    except RunFolderError as error:
        run, reason = None, str(error)
    except ProvenanceError as error:
        run, reason = None, f"{run_folder_of(path) / RECORD}: {error}"
    except OSError as error:
        run, reason = None, f"{error.filename}: cannot be read: {error.strerror}"
    if run is not None and run.provenance.digest() == provenance.digest():
        return run, ""
    if has_journal(path):
        # A resume would restore the latents, which are better than the frames.
        raise InputError(
            f"{path}: the run that wrote it was interrupted before its latents were in place; resume that "
            f"run with its own command, or remove {journal_folder_of(path)} to start from the frames"
        )
    return None, reason


def _encoded(path: Path, provenance: Provenance) -> tuple[Sequence[EncodedScene | None], tuple[str, ...]]:
    """Return the packets of the film's scenes, or a note on why they have to be encoded again."""
    try:
        return read_scenes(path, provenance, encoding=encoding_id()), ()
    except ForeignPackets as error:
        note = f"all scenes are encoded again instead of copied: {error}"
        return [None] * len(provenance.scenes), (note,)


def _check_model(path: Path, provenance: Provenance, source: ModelSource) -> None:
    makers = [provenance.runs[scene.run].model for scene in provenance.scenes]
    foreign = [model.name for model in makers if model is not None and model.digest != source.digest]
    if foreign:
        raise ModelMismatch(
            f"{path}: the latents in {run_folder_of(path)} are those of {printable(foreign[0])} with other "
            f"weights than {source.name}",
            remedy=Remedy.GIVE_MODEL,
        )


def _check_latents(path: Path, run: Run, plans: Sequence[ScenePlan], source: ModelSource) -> None:
    """Check that the model accepts the latents, and that scenes of a crossfade have some.

    Digests do not say that. A crossfade is blended again when the other scene changes.
    """
    folder, joins = run_folder_of(path), [*(plan.join.num_frames for plan in plans), 0]
    for number, (plan, latents_FCHW) in enumerate(zip(plans, run.latents_FCHW, strict=True), start=1):
        if latents_FCHW is None:
            if any(joins[number - 1 : number + 1]) and run.provenance.video.fit is None:
                raise InputError(
                    f"{folder / LATENTS}: scene {number} of a crossfade has no latents; move {folder} away to"
                    " use the film's frames"
                )
            continue
        shape = plan.geometry
        wanted = (
            shape.num_latent_frames,
            source.geometry.latent_channels,
            shape.latent_height,
            shape.latent_width,
        )
        if latents_FCHW.shape != wanted or not np.isfinite(latents_FCHW).all():
            raise InputError(
                f"{folder / LATENTS}: scene {number} has latents of shape {latents_FCHW.shape}; finite "
                f"numbers of shape {wanted} are needed; move {folder} away to use the film's frames"
            )


def _from_latents(
    path: Path, run: Run, plans: Sequence[ScenePlan]
) -> tuple[tuple[LoadedScene, ...], tuple[str, ...]]:
    """Take all scenes from the run folder, and note which frames of external scenes are missing there."""
    provenance, video = run.provenance, run.provenance.video
    external = {
        number: record
        for number, record in enumerate(provenance.scenes)
        # A scene without latents was never context, so no frames of it were stored.
        if provenance.runs[record.run].kind == "footage" and record.latents_sha256 is not None
    }
    kept = read_kept_frames(path, external, height=video.height, width=video.width)
    missing = sorted(set(external) - set(kept))
    context = kept | _context_of(path, {number: external[number] for number in missing}, video)
    scenes = tuple(
        LoadedScene(
            plan=plan,
            run=record.run,
            record=_with_frames(record, context[number]) if number in missing else record,
            latents_FCHW=latents_FCHW,
            frames_PHWC=context.get(number),
            colour_map_LC=record.colour_map_LC,
            frames_sha256=None if number in missing else record.frames_sha256,
        )
        for number, (plan, record, latents_FCHW) in enumerate(
            zip(plans, provenance.scenes, run.latents_FCHW, strict=True)
        )
    )
    numbers = ", ".join(str(number + 1) for number in missing)
    note = f"the frames of scene {numbers} are not in {run_folder_of(path)}: taken from the film"
    return scenes, (note,) if missing else ()


def _context_of(path: Path, records: Mapping[int, SceneRecord], video: VideoRecord) -> dict[int, np.ndarray]:
    """Read the frames of scenes that a model is given from the film."""
    fit = video.fit
    if fit is None:
        shown = read_spans(path, [_span(record) for record in records.values()], upscale=video.upscale)
        pairs = zip(records.items(), shown, strict=True)
        return {number: _padded(frames_PHWC, record) for (number, record), frames_PHWC in pairs}
    picks = [
        record.first_frame + np.array(fit.film_frames(num_context(record), num_shown=record.num_frames))
        for record in records.values()
    ]
    clips = ResampledVideo(
        path=path,
        picks=tuple(picks),
        spans_s=(),
        shape=reduction(fit, height=video.height, width=video.width),
    ).clips()
    return dict(zip(records, clips, strict=True))


def _from_frames(
    path: Path, provenance: Provenance, plans: Sequence[ScenePlan], *, reason: str, **common: Any
) -> LoadedFilm:
    """Take all scenes from the film's frames, which H.264 has changed a little."""
    frames_run = external_record("the film's own frames", parent=provenance.digest())
    # A clipped scene may be long; its clip is read from the packets when it is needed.
    wanted = [number for number, record in enumerate(provenance.scenes) if record.clip_frames is None]
    spans = [_span(provenance.scenes[number]) for number in wanted]
    shown = dict(zip(wanted, read_spans(path, spans, upscale=provenance.video.upscale), strict=True))
    scenes = []
    for number, (plan, record) in enumerate(zip(plans, provenance.scenes, strict=True)):
        frames_PHWC = shown.get(number)
        if frames_PHWC is None:
            film_only = record.model_copy(update={"latents_sha256": None, "clip_sha256": None})
            scenes.append(LoadedScene(plan=plan, run=record.run, record=film_only))
            continue
        scenes.append(
            LoadedScene(
                # Frames have no seed: nothing was denoised to make them.
                plan=replace(plan, seed=None),
                run=len(provenance.runs),
                record=_with_frames(record, frames_PHWC),
                frames_PHWC=frames_PHWC,
            )
        )
    return LoadedFilm(
        scenes=tuple(scenes),
        runs=(*provenance.runs, frames_run),
        notes=(f"using the film's frames instead of its latents: {reason}",),
        **common,
    )


def _with_frames(record: SceneRecord, frames_PHWC: np.ndarray) -> SceneRecord:
    """Return the record with the digest of the frames that replace the original ones."""
    name = "frames_sha256" if record.clip_frames is None else "clip_sha256"
    return record.model_copy(update={name: array_digest(frames_PHWC)})


def _span(record: SceneRecord) -> range:
    """Return the film frames of a scene, or of its clip.

    Frames of a crossfade are blended already; blending them again changes nothing.
    """
    end = record.first_frame + record.num_frames
    return range(end - min(num_context(record), record.num_frames), end)


def _padded(frames_PHWC: np.ndarray, record: SceneRecord) -> np.ndarray:
    """Repeat the first frame of a scene that is shorter than its clip."""
    missing = num_context(record) - len(frames_PHWC)
    return np.concatenate([frames_PHWC[:1].repeat(missing, axis=0), frames_PHWC]) if missing else frames_PHWC


def _video_of(path: Path, provenance: Provenance, scenes: Sequence[int]) -> ResampledVideo:
    """Return some scenes of a film of m2d as the source of a transcoding."""
    video = provenance.video
    width, height = (video.width, video.height) if video.film is None else video.written_size
    spans = [
        range(record.first_frame, record.first_frame + (record.num_frames if number in scenes else 0))
        for number, record in enumerate(provenance.scenes)
    ]
    return ResampledVideo(
        path=path,
        picks=tuple(np.arange(span.start, span.stop) for span in spans),
        spans_s=tuple((span.start / video.written_fps, span.stop / video.written_fps) for span in spans),
        shape=cover(
            width=width,
            height=height,
            pixel_aspect=Fraction(1),
            turn=Turn(),
            target_width=width,
            target_height=height,
        ),
        upscale=video.upscale,
    )
