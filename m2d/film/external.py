"""Load a film that m2d did not make as scenes: all of it, or only the context that a model is given.

`m2d.video.external` cuts and resamples the video, `transcode` encodes it. P frames, H height, W width,
C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2d.errors import InputError
from m2d.families.source import ModelSource
from m2d.files import sha256_file
from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.film.sound import sound_of
from m2d.fit import BYTES_PER_WRITTEN_PIXEL, FitChoice
from m2d.recipe.plan import ScenePlan
from m2d.video.external import ResampledVideo, read_external_video
from m2d.video.fitting import describe_fit
from m2d.video.printable import counted, printable
from m2d.video.provenance import RunRecord
from m2d.video.provenance_builder import build_run_record

_LONGEST_TITLE = 200
_MINUTES_FROM_S = 100.0


def load_external_video(
    path: Path,
    source: ModelSource,
    *,
    cuts_s: Sequence[float] | None,
    prompts: Sequence[str],
    only_context: bool = False,
    fit: FitChoice = "model",
) -> LoadedFilm:
    """Load an external video: clips of its last scenes as context, and the positions of all other scenes.

    Args:
        source: The model that continues it; it determines fps, size and the length of a clip.
        cuts_s: Start times of scenes, in seconds; None detects them.
        prompts: Prompts of the last scenes; the scenes before have none.
        only_context: Whether the output leaves the video out, so that only the context is loaded.
        fit: Whether the video keeps its size and rate (`film`), or takes the model's.

    Raises:
        FilmError: The file is not a video, is incomplete or too short.
        InputError: There are more prompts than scenes, or cuts outside the video.
    """
    geometry = source.geometry
    size = {"height": geometry.default_height, "width": geometry.default_width}
    video = read_external_video(
        path,
        fps=geometry.default_fps,
        num_frames=geometry.default_num_frames,
        cuts_s=cuts_s,
        max_scenes=max(geometry.num_scenes - 1, 1),
        fit=fit,
        **size,
    )
    whole = video.whole
    num_scenes, num_clips = len(whole.picks), len(video.clips)
    if len(prompts) > num_scenes:
        raise InputError(
            f"{len(prompts)} prompts for {counted(num_scenes, 'scene')} of {path}; give at most one each",
            argument="context_prompt",
        )
    all_prompts = [""] * (num_scenes - len(prompts)) + list(prompts)
    clips = [None] * (num_scenes - num_clips) + list(video.clips)
    shape = geometry.scene(num_frames=geometry.default_num_frames, **size)
    spans_s = [[round(start_s, 3), round(end_s, 3)] for start_s, end_s in whole.spans_s]
    first = num_scenes - num_clips if only_context else 0
    fit_notes = () if video.fit is None else (describe_fit(video.fit, **size),)
    sound, sound_notes = sound_of(path, whole.spans_s[first:])
    return LoadedFilm(
        title=" ".join(printable(path.stem, limit=_LONGEST_TITLE).split()) or "Film",
        scenes=tuple(
            LoadedScene(
                plan=ScenePlan(
                    prompt=all_prompts[number],
                    geometry=shape,
                    film_frames=None if only_context else len(whole.picks[number]),
                ),
                run=0,
                frames_PHWC=clips[number],
            )
            for number in range(first, num_scenes)
        ),
        runs=(external_record(printable(path.name), spans=spans_s[first:]),),
        digest=None,
        first_scene=first,
        fps=geometry.default_fps,
        upscale=1,
        fit=video.fit,
        cuts_s=None if cuts_s is None else tuple(cuts_s),
        to_transcode=None if only_context else whole,
        file_sha256=None if only_context else sha256_file(path),
        sound=sound,
        notes=(*video.notes, *fit_notes, *sound_notes),
    )


def external_record(name: str, **parameters: Any) -> RunRecord:
    """Return the run record that stands for the scenes of an external video."""
    facts: Mapping[str, Any] = {"film": name, **parameters}
    return build_run_record(kind="footage", recipe={}, parameters=facts, model=None, windows=[])


def describe_copy(whole: ResampledVideo, *, fps: float) -> str:
    """Return a note on how much of the output an external video becomes."""
    num_scenes, length_s = len(whole.picks), whole.num_frames / fps
    size_bytes = (
        whole.num_frames * whole.shape.target_width * whole.shape.target_height * BYTES_PER_WRITTEN_PIXEL
    )
    length = f"{length_s / 60:.0f} min" if length_s >= _MINUTES_FROM_S else f"{length_s:.1f} s"
    size = f"about {size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e5 else "less than 0.1 MB"
    return (
        f"the whole video is copied: {counted(num_scenes, 'scene')}, "
        f"{whole.num_frames:,} frames, {length}, {size}"
    )
