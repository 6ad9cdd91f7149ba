"""A small synthetic story: flat colours, a moving block, a different ground per scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d.enlarging import Enlarging
from m2d.video.provenance import ModelRecord, Provenance
from m2d.video.provenance_builder import MadeScene, build_provenance, build_run_record
from m2d.video.write import write_film

GROUNDS = ((200, 60, 50), (60, 180, 80), (70, 90, 220), (220, 200, 60))
PROMPTS = ("Actor1 walks right.", "Actor1 jumps.", "Actor1 waves.", "Actor1 stands still.")


def draw_scene(index: int, *, num_frames: int = 5, height: int = 16, width: int = 24) -> np.ndarray:
    """Frames PHWC of scene `index`."""
    frames_PHWC = np.empty((num_frames, height, width, 3), np.uint8)
    frames_PHWC[:] = GROUNDS[index % len(GROUNDS)]
    for frame in range(num_frames):
        frames_PHWC[frame, 4:10, frame + 2 : frame + 8] = (240, 240, 230)
    return frames_PHWC


def draw_story(num_scenes: int = 3, *, num_frames: int = 5) -> list[np.ndarray]:
    """One array of frames per scene."""
    return [draw_scene(index, num_frames=num_frames) for index in range(num_scenes)]


def describe(
    scenes: Sequence[np.ndarray],
    *,
    prompts: Sequence[str],
    fps: float = 8,
    upscale: int = 4,
    title: str = "A",
) -> Provenance:
    """Provenance of `scenes`."""
    made = [
        MadeScene(
            prompt=prompt, seed=index, frames_PHWC=frames, latents_FCHW=np.zeros((2, 4, 2, 3), np.float32)
        )
        for index, (prompt, frames) in enumerate(zip(prompts, scenes, strict=True))
    ]
    run = build_run_record(
        kind="generate",
        recipe={"title": title, "scenes": list(prompts)},
        parameters={"num_inference_steps": 25},
        model=ModelRecord(name="builtin:puppet", digest="0" * 64),
        windows=[],
    )
    return build_provenance(
        title=title,
        runs=[run],
        scenes=made,
        fps=fps,
        upscale=Enlarging(upscale),
    )


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """Write a film of the synthetic story into the test's folder and return its path."""

    def write(name: str = "film.mp4", *, scenes: Sequence[np.ndarray] | None = None, **given: Any) -> Path:
        made = draw_story() if scenes is None else scenes
        prompts = given.get("prompts", PROMPTS[: len(made)])
        fps: float | Fraction = given.get("fps", 8)
        upscale: int = given.get("upscale", 4)
        provenance = describe(made, prompts=prompts, fps=float(fps), upscale=upscale)
        path = tmp_path / name
        write_film(
            path,
            made,
            fps=fps,
            upscale=upscale,
            title=given.get("title", "A story"),
            scene_prompts=prompts,
            provenance=provenance if given.get("has_provenance", True) else None,
            force=given.get("force", False),
        )
        return path

    return write
