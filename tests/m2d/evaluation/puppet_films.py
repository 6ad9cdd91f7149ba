"""Small films of drawn puppet stories, and the recipes of their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from m2d.model.pixels import to_pixels
from m2d.puppet.captions import plain_caption
from m2d.puppet.render import render_clips
from m2d.puppet.story import sample_story
from m2d.puppet.story_scores import story_clips
from m2d.recipe.schema import Recipe, Scene
from m2d.recipe.writer import to_yaml
from m2d.video.write import write_film


def write_films(folder: Path, *, seed: int, count: int, num_scenes: int = 3) -> list[tuple[str, ...]]:
    """Write `films/story-0.mp4` with a chapter per scene, and `stories/story-0.yaml`; return prompts."""
    (folder / "films").mkdir(parents=True)
    (folder / "stories").mkdir()
    found = []
    for index in range(count):
        story = sample_story(seed=seed, index=index, num_scenes=num_scenes, changing=0.5)
        frames_BPCHW = render_clips(story_clips([story]), num_frames=9, height=64, width=64)
        prompts = tuple(plain_caption(story, scene) for scene in story.scenes)
        write_film(
            folder / "films" / f"story-{index}.mp4",
            [to_pixels(2 * frames_PCHW - 1) for frames_PCHW in frames_BPCHW],
            fps=8,
            upscale=1,
            title=f"Story {index}",
            scene_prompts=prompts,
            provenance=None,
            force=True,
        )
        scenes = tuple(Scene(prompt=prompt) for prompt in prompts)
        cast = {f"Actor{slot + 1}": actor.description for slot, actor in enumerate(story.cast)}
        recipe = Recipe(title=f"Story {index}", cast=cast, scenes=scenes)
        (folder / "stories" / f"story-{index}.yaml").write_text(to_yaml(recipe))
        found.append(prompts)
    return found


def empty_film(path: Path, *, num_frames: int = 2, width: int = 64) -> None:
    """Write a black video of one scene, without provenance, and the folder that it is in."""
    path.parent.mkdir(exist_ok=True)
    frames_PHWC = np.zeros((num_frames, 64, width, 3), np.uint8)
    options: dict[str, Any] = {"provenance": None, "force": True, "scene_prompts": ["a"]}
    write_film(path, [frames_PHWC], fps=8, upscale=1, title="a", **options)
