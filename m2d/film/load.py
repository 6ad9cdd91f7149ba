"""A film of m2d that a run goes on from: its scenes as latents or as frames, and what it tells of them.

Owns where a scene comes from: the run folder, or the film's own frames when that is gone. Computes nothing:
what is frames here is encoded by `making`. P frames, F latent frames, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from m2d.errors import InputError, Remedy
from m2d.film.context_frames import read_kept_frames
from m2d.film.external import footage_record
from m2d.film.journal_folder import has_journal, journal_folder_of
from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.geometry import GeometryError
from m2d.joins import Join
from m2d.model.source import ModelSource
from m2d.recipe.plan import ScenePlan
from m2d.video.crop_resize import Turn, cover
from m2d.video.digests import frames_digest
from m2d.video.encode import encoding_id
from m2d.video.external import ResampledVideo
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


class ModelMismatch(InputError):
    """A film whose latents belong to another model."""


def read_provenance(path: Path) -> Provenance | None:
    """Return the provenance of a film, compared with what its index tells; None for a film that has none.

    Raises:
        FilmError: Not a film, or not a complete one.
        ProvenanceError: It is damaged, or tells of another film.
    """
    try:
        return probe(path).provenance
    except ProvenanceError as error:
        raise ProvenanceError(f"{path}: {error}") from error


def load_film(path: Path, source: ModelSource) -> LoadedFilm:
    """Load a film that m2d made.

    Args:
        path: The film, with provenance.
        source: The model that is to go on from it.

    Raises:
        FilmError: Not a film, or not a complete one.
        ProvenanceError: Its provenance is damaged or tells of another film.
        ModelMismatch: Its latents belong to another model.
        InputError: It has no provenance, its size is none that the model can make, its latents are not what
            the provenance describes, or the run that wrote it has not finished.
    """
    provenance = read_provenance(path)
    if provenance is None:
        raise InputError(f"{path}: was not made by m2d; it can be extended, but has no scenes to go back to")
    plans = _scene_plans(path, provenance, source)
    encoded, notes = _encoded(path, provenance)
    common: dict[str, Any] = {
        "title": provenance.title,
        "digest": provenance.digest(),
        "first_scene": provenance.first_scene,
        "fps": round(provenance.video.fps),
        "upscale": provenance.video.upscale,
    }
    run, reason = _run_of(path, provenance)
    if run is None:
        film = _from_frames(path, provenance, plans, reason=reason, **common)
    else:
        _check_model(path, provenance, source)
        _check_latents(path, run, plans, source)
        scenes, lost = _from_latents(path, run, plans)
        sheet = read_sheet(path)
        film = LoadedFilm(scenes=scenes, runs=provenance.runs, sheet=sheet, notes=lost, **common)
    scenes = tuple(replace(scene, encoded=part) for scene, part in zip(film.scenes, encoded, strict=True))
    untaken = [
        number
        for number, scene in enumerate(scenes)
        if scene.encoded is None and (scene.is_bare or scene.is_clipped)
    ]
    stream = _stream(path, provenance, untaken) if untaken else None
    return replace(film, scenes=scenes, stream=stream, notes=(*film.notes, *notes))


def _scene_plans(path: Path, provenance: Provenance, source: ModelSource) -> list[ScenePlan]:
    video = provenance.video
    plans = []
    for record in provenance.scenes:
        try:
            shape = source.geometry.scene(
                num_frames=_num_given(record), height=video.height, width=video.width
            )
        except GeometryError as error:
            raise InputError(
                f"{path}: {source.name} cannot go on from scenes of {_num_given(record)} frames of "
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
            )
        )
    return plans


def _run_of(path: Path, provenance: Provenance) -> tuple[Run | None, str]:
    """The film's run folder, or why it is of no use."""
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
        # The latents may be there: going on from frames would lose them without need.
        raise InputError(
            f"{path}: the run that wrote it was interrupted before its latents were in place; resume that "
            f"run with its own command, or remove {journal_folder_of(path)} to start from the frames"
        )
    return None, reason


def _encoded(path: Path, provenance: Provenance) -> tuple[Sequence[EncodedScene | None], tuple[str, ...]]:
    """The film's scenes as they are encoded, or a note on why they will be encoded anew."""
    try:
        return read_scenes(path, provenance, encoding=encoding_id()), ()
    except ForeignPackets as error:
        note = f"all scenes are encoded anew, not copied from the film: {error}"
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
    """Digests confirm that latents are the run's; only this confirms that the model can take them."""
    for number, (plan, latents_FCHW) in enumerate(zip(plans, run.latents_FCHW, strict=True), start=1):
        if latents_FCHW is None:
            continue
        shape = plan.geometry
        wanted = (
            shape.num_latent_frames,
            source.geometry.latent_channels,
            shape.latent_height,
            shape.latent_width,
        )
        if latents_FCHW.shape != wanted or not np.isfinite(latents_FCHW).all():
            folder = run_folder_of(path)
            raise InputError(
                f"{folder / LATENTS}: scene {number} has latents of shape {latents_FCHW.shape}, the film's "
                f"are finite numbers of shape {wanted}; move {folder} away to go on from the film's frames"
            )


def _from_latents(
    path: Path, run: Run, plans: Sequence[ScenePlan]
) -> tuple[tuple[LoadedScene, ...], tuple[str, ...]]:
    """Take all scenes from the run folder, and say which frames of footage are no longer there."""
    provenance, video = run.provenance, run.provenance.video
    footage = {
        number: record
        for number, record in enumerate(provenance.scenes)
        # A scene without latents is only what the film shows, unless a clip of it was kept.
        if provenance.runs[record.run].kind == "footage" and record.latents_sha256 is not None
    }
    kept = read_kept_frames(path, footage, height=video.height, width=video.width)
    lost = sorted(set(footage) - set(kept))
    shown = read_spans(path, [_span(footage[number]) for number in lost], upscale=video.upscale)
    given = kept | {
        number: _clip_of(frames_PHWC, footage[number])
        for number, frames_PHWC in zip(lost, shown, strict=True)
    }
    scenes = tuple(
        LoadedScene(
            plan=plan,
            run=record.run,
            record=_with_frames(record, given[number]) if number in lost else record,
            latents_FCHW=latents_FCHW,
            frames_PHWC=given.get(number),
            colour_map_LC=record.colour_map_LC,
            frames_sha256=None if number in lost else record.frames_sha256,
        )
        for number, (plan, record, latents_FCHW) in enumerate(
            zip(plans, provenance.scenes, run.latents_FCHW, strict=True)
        )
    )
    told = ", ".join(str(number + 1) for number in lost)
    note = f"the frames of footage, scene {told}, are not in {run_folder_of(path)}: taken from the film"
    return scenes, (note,) if lost else ()


def _from_frames(
    path: Path, provenance: Provenance, plans: Sequence[ScenePlan], *, reason: str, **common: Any
) -> LoadedFilm:
    """Take all scenes from the film's frames, which its encoder has changed a little."""
    record = footage_record("the film's own frames", parent=provenance.digest())
    # External video that only a clip is given of may be of any length: that is looked for when it is needed.
    wanted = [number for number, told in enumerate(provenance.scenes) if told.clip_frames is None]
    spans = [_span(provenance.scenes[number]) for number in wanted]
    shown = dict(zip(wanted, read_spans(path, spans, upscale=provenance.video.upscale), strict=True))
    scenes = []
    for number, (plan, told) in enumerate(zip(plans, provenance.scenes, strict=True)):
        frames_PHWC = shown.get(number)
        if frames_PHWC is None:
            bare = told.model_copy(update={"latents_sha256": None, "clip_sha256": None})
            scenes.append(LoadedScene(plan=plan, run=told.run, record=bare))
            continue
        scenes.append(
            LoadedScene(
                # External video has neither seed nor guidance: nothing was denoised.
                plan=replace(plan, seed=None),
                run=len(provenance.runs),
                record=_with_frames(told, frames_PHWC),
                frames_PHWC=frames_PHWC,
            )
        )
    return LoadedFilm(
        scenes=tuple(scenes),
        runs=(*provenance.runs, record),
        notes=(f"going on from the film's frames, not from its latents: {reason}",),
        **common,
    )


def _with_frames(record: SceneRecord, frames_PHWC: np.ndarray) -> SceneRecord:
    """What is told of a scene when what a model is given of it is no longer what it was made of."""
    name = "frames_sha256" if record.clip_frames is None else "clip_sha256"
    return record.model_copy(update={name: frames_digest([frames_PHWC])})


def _num_given(record: SceneRecord) -> int:
    """Frames that a model is given of a scene."""
    return record.num_frames if record.clip_frames is None else record.clip_frames


def _span(record: SceneRecord) -> range:
    """A scene's frames in the film; those of a crossfade are blended, and stay the same if blended again.

    Of a scene that only a clip is given of: those of the clip, or one that is held before them.
    """
    end = record.first_frame + record.num_frames
    return range(end - min(_num_given(record), record.num_frames), end)


def _clip_of(frames_PHWC: np.ndarray, record: SceneRecord) -> np.ndarray:
    missing = _num_given(record) - len(frames_PHWC)
    return np.concatenate([frames_PHWC[:1].repeat(missing, axis=0), frames_PHWC]) if missing else frames_PHWC


def _stream(path: Path, provenance: Provenance, scenes: Sequence[int]) -> ResampledVideo:
    """Some scenes of a film of m2d, as it shows them."""
    video = provenance.video
    size = {"width": video.width, "height": video.height}
    spans = [
        range(record.first_frame, record.first_frame + (record.num_frames if number in scenes else 0))
        for number, record in enumerate(provenance.scenes)
    ]
    return ResampledVideo(
        path=path,
        picks=tuple(np.arange(span.start, span.stop) for span in spans),
        spans_s=tuple((span.start / video.fps, span.stop / video.fps) for span in spans),
        shape=cover(
            **size,
            pixel_aspect=Fraction(1),
            turn=Turn(),
            target_width=video.width,
            target_height=video.height,
        ),
        upscale=video.upscale,
    )
