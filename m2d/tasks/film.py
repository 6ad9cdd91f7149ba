"""A film that a run goes on from: its scenes as latents or as frames, and what it tells of them.

Owns where a scene comes from: the run folder, or the film's own frames when that is gone. Footage that m2d
did not make is cut into scenes by `m2d.video.footage`. Computes nothing: what is frames here is encoded by
`making`. P frames, F latent frames, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m2d.errors import InputError
from m2d.geometry import GeometryError
from m2d.joins import Join
from m2d.model.source import ModelSource
from m2d.recipe.plan import ScenePlan
from m2d.tasks.journal_folder import has_journal, journal_folder_of
from m2d.tasks.kept_frames import read_kept_frames
from m2d.video.encode import encoding_id
from m2d.video.footage import Footage, read_footage
from m2d.video.packets import EncodedScene, ForeignPackets, read_scenes
from m2d.video.printable import printable
from m2d.video.provenance import (
    Provenance,
    ProvenanceError,
    RunRecord,
    SceneRecord,
    build_run_record,
    frames_digest,
)
from m2d.video.read import Film, probe, read_film
from m2d.video.run_folder import LATENTS, RECORD, Run, RunFolderError, read_run, run_folder_of

_LONGEST_TITLE = 200


class ModelMismatch(InputError):
    """A film whose latents belong to another model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedScene:
    """One scene of a film; of latents and frames at least one is there.

    Attributes:
        plan: Its prompt, seed, sizes and join.
        run: Index of the run that made it.
        record: What the film's provenance tells of it; None in a film that has none.
        latents_FCHW: As stored, float32; None when they are to be encoded from the frames.
        frames_PHWC: Its frames, when decoding the latents would not give them.
        encoded: What is shown of it, as it is encoded in the film; None when that is to be made again.
        colour_map_LC: What its colours were sent through after decoding, uint8 (256, 3); None for nothing.
        frames_sha256: Digest of the frames it had when it was made; None when these are others.
    """

    plan: ScenePlan
    run: int
    record: SceneRecord | None = None
    latents_FCHW: np.ndarray | None = None
    frames_PHWC: np.ndarray | None = None
    encoded: EncodedScene | None = None
    colour_map_LC: np.ndarray | None = None
    frames_sha256: str | None = None

    @property
    def maker(self) -> int:
        """Index of the run that knows how it was made, also when its frames are all that is left."""
        return self.run if self.record is None else self.record.run


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedFilm:
    """A film.

    Attributes:
        title: Its title.
        scenes: In their order.
        runs: The runs that made them; the last may be `footage`.
        digest: Of its provenance; None when it has none.
        first_scene: Number of its first scene in its story.
        fps: Frames per second.
        upscale: Factor by which the written picture is larger than the frames.
        cuts_s: Where the scenes of footage were said to begin; None when nobody said it.
        notes: What was done to it, for the user.
    """

    title: str
    scenes: tuple[LoadedScene, ...]
    runs: tuple[RunRecord, ...]
    digest: str | None
    first_scene: int
    fps: int
    upscale: int
    cuts_s: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def plans(self) -> tuple[ScenePlan, ...]:
        """The scenes as a run's plan knows them."""
        return tuple(scene.plan for scene in self.scenes)


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
        film = LoadedFilm(scenes=scenes, runs=provenance.runs, notes=lost, **common)
    scenes = tuple(replace(scene, encoded=part) for scene, part in zip(film.scenes, encoded, strict=True))
    return replace(film, scenes=scenes, notes=(*film.notes, *notes))


def load_footage(
    path: Path, source: ModelSource, *, cuts_s: Sequence[float] | None, prompts: Sequence[str]
) -> LoadedFilm:
    """Load any other film: its last scenes, as many as the model takes as context.

    Args:
        path: The film.
        source: The model that is to go on from it; fps, size and length of a scene are its own.
        cuts_s: Where scenes begin, in seconds; None finds them.
        prompts: What happens in these scenes; fewer leave the first of them without.

    Raises:
        FilmError: Not a film, not a complete one, or one too short.
        InputError: More prompts than scenes, or cuts that are not in the film.
    """
    geometry = source.geometry
    size = {"height": geometry.default_height, "width": geometry.default_width}
    footage = read_footage(
        path,
        fps=geometry.default_fps,
        num_frames=geometry.default_num_frames,
        cuts_s=cuts_s,
        max_scenes=max(geometry.num_scenes - 1, 1),
        **size,
    )
    num_scenes = len(footage.scenes)
    if len(prompts) > num_scenes:
        raise InputError(
            f"--context-prompt: {len(prompts)} prompts for {num_scenes} scenes of {path}; give at most "
            "one each"
        )
    told = [""] * (num_scenes - len(prompts)) + list(prompts)
    shape = geometry.scene(num_frames=geometry.default_num_frames, **size)
    return LoadedFilm(
        title=" ".join(printable(path.stem, limit=_LONGEST_TITLE).split()) or "Film",
        scenes=tuple(
            LoadedScene(plan=ScenePlan(prompt=prompt, geometry=shape), run=0, frames_PHWC=scene.frames_PHWC)
            for prompt, scene in zip(told, footage.scenes, strict=True)
        ),
        runs=(_footage_record(printable(path.name), spans=_spans(footage)),),
        digest=None,
        first_scene=0,
        fps=geometry.default_fps,
        upscale=1,
        cuts_s=None if cuts_s is None else tuple(cuts_s),
        notes=footage.notes,
    )


def _scene_plans(path: Path, provenance: Provenance, source: ModelSource) -> list[ScenePlan]:
    video = provenance.video
    plans = []
    for record in provenance.scenes:
        try:
            shape = source.geometry.scene(
                num_frames=record.num_frames, height=video.height, width=video.width
            )
        except GeometryError as error:
            raise InputError(
                f"{path}: {source.name} cannot go on from scenes of {record.num_frames} frames of "
                f"{video.width}x{video.height}: {' '.join(str(error).split())}"
            ) from error
        plans.append(
            ScenePlan(
                prompt=record.prompt,
                negative_prompt=record.negative_prompt,
                guidance_scale=1.0 if record.guidance_scale is None else record.guidance_scale,
                seed=record.seed,
                geometry=shape,
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
            f"{path}: the run that wrote it was interrupted before its latents were in place; finish it with "
            f"its own command and --resume, or remove {journal_folder_of(path)} to go on from the frames"
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
            f"{path}: its latents are those of {printable(foreign[0])} with other weights than "
            f"{source.name}; name that model with --model, or move {run_folder_of(path)} away to go on from "
            "the film's frames"
        )


def _check_latents(path: Path, run: Run, plans: Sequence[ScenePlan], source: ModelSource) -> None:
    """Digests confirm that latents are the run's; only this confirms that the model can take them."""
    for number, (plan, latents_FCHW) in enumerate(zip(plans, run.latents_FCHW, strict=True), start=1):
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
    provenance = run.provenance
    footage = {
        number: record
        for number, record in enumerate(provenance.scenes)
        if provenance.runs[record.run].kind == "footage"
    }
    kept = read_kept_frames(path, footage, height=provenance.video.height, width=provenance.video.width)
    lost = sorted(set(footage) - set(kept))
    given = dict(kept)
    if lost:
        film = read_film(path)
        given |= {number: _shown(film, footage[number]) for number in lost}
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
    film = read_film(path)
    record = _footage_record("the film's own frames", parent=provenance.digest())
    scenes = []
    for plan, told in zip(plans, provenance.scenes, strict=True):
        frames_PHWC = _shown(film, told)
        scenes.append(
            LoadedScene(
                # Footage has neither seed nor guidance: nothing was denoised.
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
    """What is told of a scene whose frames are no longer those it was made of."""
    return record.model_copy(update={"frames_sha256": frames_digest([frames_PHWC])})


def _shown(film: Film, record: SceneRecord) -> np.ndarray:
    """A scene's frames in the film; those of a crossfade are blended, and stay the same if blended again."""
    return film.frames_PHWC[record.first_frame : record.first_frame + record.num_frames]


def _footage_record(name: str, **parameters: Any) -> RunRecord:
    return build_run_record(
        kind="footage", recipe={}, parameters={"film": name, **parameters}, model=None, windows=[]
    )


def _spans(footage: Footage) -> list[list[float]]:
    return [[round(scene.start_s, 3), round(scene.end_s, 3)] for scene in footage.scenes]
