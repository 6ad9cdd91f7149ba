"""Write rendered puppet stories as a video dataset: MP4 files and their description.

Owns the files and their names; `m2d.data` owns the formats.
"""

# N scenes, P frames, C channels, H W height and width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from m2d.data.csv_format import WrittenClip, write_csv
from m2d.data.json_format import write_json_groups
from m2d.data.jsonl_format import write_jsonl
from m2d.errors import InputError
from m2d.files import sha256_file, write_bytes
from m2d.folders import make_folder
from m2d.geometry import SceneGeometry
from m2d.model.pixels import to_pixels
from m2d.progress import Reporter
from m2d.puppet.dataset import PuppetStories, wardrobe_with
from m2d.stop import StopRequest
from m2d.video.write import write_film

DatasetFormat = Literal["csv", "json", "jsonl"]
NAMES: dict[DatasetFormat, str] = {"csv": "pretrain.csv", "json": "sft.json", "jsonl": "stories.jsonl"}
_VIDEOS = "videos"


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderPlan:
    """A dataset to render.

    Attributes:
        out: Folder of the dataset; must not hold a dataset.
        num_scenes: Scenes per story, one file each.
        num_frames: Frames per scene.
        side: Height and width of the rendered picture in pixels.
        upscale: Factor by which pictures are enlarged; small pictures lose colour in video compression.
        seed: Seed of the stories, the same as in training recipes.
        file_format: `csv` has a row per scene, `json` and `jsonl` have groups.
        hats: Hats that are drawn as another hat; captions keep the name, as in training recipes.
    """

    out: Path
    num_stories: int
    num_scenes: int = 3
    num_frames: int = 9
    side: int = 64
    fps: int = 8
    upscale: int = 4
    seed: int = 1
    file_format: DatasetFormat = "jsonl"
    hats: Mapping[str, str] = field(default_factory=dict)

    @property
    def description(self) -> Path:
        """The file that describes the dataset."""
        return self.out / NAMES[self.file_format]


def check_plan(plan: RenderPlan) -> None:
    """Refuse sizes that cannot be rendered.

    Raises:
        InputError: No story, no scene, or fewer than two frames.
        DatasetError: An unknown hat.
    """
    wardrobe_with(plan.hats, field="hats")
    if plan.num_stories < 1 or plan.num_scenes < 1 or plan.num_frames < 2:
        raise InputError(
            f"{plan.num_stories} stories of {plan.num_scenes} scenes of {plan.num_frames} frames; "
            "at least one story, one scene and two frames are needed"
        )


def write_dataset(plan: RenderPlan, reporter: Reporter, stop: StopRequest) -> Path:
    """Write the videos, then the description; return the description's path.

    Raises:
        OutputError: The disk refused.
        Interrupted: A stop was asked for; a second call writes the missing files.
    """
    make_folder(plan.out / _VIDEOS)
    groups = _written(plan, reporter, stop)
    write_bytes(plan.description, _described(groups, plan.file_format).encode())
    return plan.description


def _written(plan: RenderPlan, reporter: Reporter, stop: StopRequest) -> list[list[WrittenClip]]:
    geometry = SceneGeometry.of_pixels(num_frames=plan.num_frames, height=plan.side, width=plan.side)
    stories = PuppetStories(
        num_stories=plan.num_stories,
        seed=plan.seed,
        geometry=geometry,
        num_scenes=plan.num_scenes,
        wardrobe=wardrobe_with(plan.hats),
    )
    groups = []
    with reporter.stage("render stories", total=plan.num_stories) as progress:
        for index in range(plan.num_stories):
            story = stories.render(index)
            frames = [to_pixels(frames_PCHW) for frames_PCHW in story.frames_NPCHW]
            groups.append(_write_story(plan, index, frames, story.prompts))
            progress.advance()
            stop.check("while rendering: run the same command again")
    return groups


def _write_story(
    plan: RenderPlan, index: int, scenes: Sequence[np.ndarray], prompts: Sequence[str]
) -> list[WrittenClip]:
    clips = []
    for number, (frames_PHWC, prompt) in enumerate(zip(scenes, prompts, strict=True), start=1):
        name = f"{_VIDEOS}/story-{index:06d}-scene-{number}.mp4"
        write_film(
            plan.out / name,
            [frames_PHWC],
            fps=plan.fps,
            upscale=plan.upscale,
            title=f"Puppet story {index}, scene {number}",
            scene_prompts=[prompt],
            provenance=None,
            force=True,
        )
        clips.append(
            WrittenClip(
                video=name,
                caption=prompt,
                width=plan.side * plan.upscale,
                height=plan.side * plan.upscale,
                fps=plan.fps,
                num_frames=plan.num_frames,
                sha256=sha256_file(plan.out / name),
            )
        )
    return clips


def _described(groups: Sequence[Sequence[WrittenClip]], file_format: DatasetFormat) -> str:
    if file_format == "csv":
        return write_csv([clip for clips in groups for clip in clips])
    return write_json_groups(groups) if file_format == "json" else write_jsonl(groups)
