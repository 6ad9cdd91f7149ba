"""Films that several runs made: provenance and files of stories that were extended and re-rolled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from m2d.enlarging import Enlarging
from m2d.joins import CUT, Join
from m2d.video.joining import colour_jump, shown_frames
from m2d.video.provenance import ModelRecord, Provenance, RunKind, RunRecord, WindowRecord
from m2d.video.provenance_builder import MadeScene, build_provenance, build_run_record
from m2d.video.run_folder import LATENTS, SHEET, finish_run, latents_bytes
from m2d.video.write import write_film
from tests.m2d.video.conftest import draw_story

RunPasses = tuple[RunKind, Sequence[tuple[Sequence[int], Sequence[int]]]]
"""A run: its kind, and the scenes and targets of each of its windows."""

GENERATE: RunPasses = ("generate", [((0, 1, 2), (0, 1, 2))])
EXTEND: RunPasses = ("extend", [((1, 2, 3), (3,)), ((2, 3, 4), (4,))])
REROLL: RunPasses = ("reroll", [((0, 1, 2), (1,))])
FOOTAGE: RunPasses = ("footage", [])
TIMINGS_S = {"encode prompts": 0.12, "denoise": 14.6, "decode": 5.5}


def grown(
    runs: Sequence[RunPasses] = (GENERATE, EXTEND, REROLL),
    made_by: Sequence[int] = (0, 2, 0, 1, 1),
    *,
    joins: Mapping[int, Join] | None = None,
    prompts: Mapping[int, str] | None = None,
    mask: str = "mask2dit",
    title: str = "A long walk",
    first_scene: int = 0,
) -> tuple[Provenance, list[np.ndarray]]:
    """Provenance of a film, and the frames of its scenes as they are shown.

    Args:
        runs: The runs, oldest first.
        made_by: For each scene of the film the index of the run that made it.
        joins: Of the scenes that do not follow with a cut.
        prompts: Of scenes that are to have a certain one.
        mask: The runs' mask.
        title: The film's.
        first_scene: See `Provenance`.
    """
    frames = draw_story(len(made_by))
    follows = [(joins or {}).get(index, CUT) for index in range(len(made_by))]
    scenes = []
    for index, run in enumerate(made_by):
        is_footage = runs[run][0] == "footage"
        scenes.append(
            MadeScene(
                prompt=(prompts or {}).get(index, f"Actor1 walks to stop {index + 1}."),
                negative_prompt="a second sun" if index == 1 else "",
                guidance_scale=None if is_footage else 2.5,
                seed=None if is_footage else 40 + index,
                run=run,
                frames_PHWC=frames[index],
                latents_FCHW=np.full((2, 4, 2, 3), index, np.float32),
                join=follows[index],
                colour_jump=colour_jump(frames[index - 1], frames[index]) if index else None,
            )
        )
    provenance = build_provenance(
        title=title,
        runs=[_record(*run, mask=mask) for run in runs],
        scenes=scenes,
        fps=8,
        upscale=Enlarging(2),
        first_scene=first_scene,
    )
    return provenance, join_scenes(frames, follows)


def join_scenes(scenes: Sequence[np.ndarray], joins: Sequence[Join]) -> list[np.ndarray]:
    """The frames that a film shows of each scene; `joins` says how each follows the one before it."""
    overlaps = [*(join.num_frames for join in joins), 0]
    return [
        shown_frames(
            frames_PHWC,
            before_PHWC=scenes[index - 1] if index else None,
            opening=overlaps[index],
            closing=overlaps[index + 1],
        )
        for index, frames_PHWC in enumerate(scenes)
    ]


def write_run(
    film: Path,
    *,
    provenance: Provenance,
    latents_FCHW: Sequence[np.ndarray],
    timings_s: Mapping[str, float],
    sheet: bytes | None = None,
) -> Path:
    """Write the run folder of a film from its scenes' latents."""
    files = {LATENTS: latents_bytes(latents_FCHW)} | ({SHEET: sheet} if sheet is not None else {})
    return finish_run(film, provenance=provenance, files=files, timings_s=timings_s)


def write_grown(
    path: Path, provenance: Provenance, shown: Sequence[np.ndarray], *, has_run_folder: bool = True
) -> Path:
    """Write such a film, and its run folder beside it."""
    write_film(
        path,
        shown,
        fps=provenance.video.fps,
        upscale=provenance.video.upscale,
        title=provenance.title,
        scene_prompts=[scene.prompt for scene in provenance.scenes],
        provenance=provenance,
        force=True,
    )
    if has_run_folder:
        latents = [np.full((2, 4, 2, 3), index, np.float32) for index in range(len(provenance.scenes))]
        write_run(path, provenance=provenance, latents_FCHW=latents, timings_s=TIMINGS_S)
    return path


def _record(kind: RunKind, passes: Sequence[tuple[Sequence[int], Sequence[int]]], *, mask: str) -> RunRecord:
    if kind == "footage":
        return build_run_record(
            kind=kind, recipe={}, parameters={"film": "holiday.mov"}, model=None, windows=[]
        )
    return build_run_record(
        kind=kind,
        recipe={"title": "A", "mask": mask},
        parameters={
            "mask": mask,
            "num_inference_steps": 25,
            "scheduler": "ddim",
            "backend": "eager",
            "device": "cpu",
            "dtype": "float32",
        },
        model=ModelRecord(name="builtin:puppet", digest="c" * 64),
        windows=[
            WindowRecord(scenes=tuple(scenes), targets=tuple(targets), layout_digest="d" * 64)
            for scenes, targets in passes
        ],
    )
