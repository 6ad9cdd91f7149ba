"""Check a dataset without training: read its description, decode its videos, count what suits the recipe.

Owns no rule: the training applies the same ones when it opens the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2d.data.dataset_file import shots_of
from m2d.data.decoder_pool import DecoderPool
from m2d.data.rejects import Reject
from m2d.data.scan import ScannedData, scan_videos
from m2d.garbage import no_collection
from m2d.geometry import SceneGeometry
from m2d.model.tokenizer import PromptTokenizer
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.training.datasets import check_held_out, read_stories, story_library
from m2d.training.recipe import DataRecipe, TrainingRecipe
from m2d.training.sampling import StageSampler


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """What a training finds in a dataset.

    Attributes:
        num_stories: Stories that suit the recipe, those with broken videos included.
        num_readable: Those of them that can be read.
        num_scenes: Shots in all stories.
        rejects: Videos and shots that are not used.
    """

    num_videos: int
    num_stories: int
    num_readable: int
    num_scenes: int
    held_out: int
    rejects: tuple[Reject, ...]


def scan_data(
    data: DataRecipe, tokenizer: PromptTokenizer, *, root: Path, reporter: Reporter, stop: StopRequest
) -> ScannedData:
    """Read a dataset and decode its videos once; `root` is the folder of all caches.

    Raises:
        DatasetError: The description or a caption is wrong.
        Interrupted: A stop was requested; the scans so far are cached.
    """
    groups = read_stories(data, tokenizer, max_tokens=tokenizer.max_tokens, reporter=reporter)
    videos = [shot.video for shot in shots_of(groups)]
    with DecoderPool(num_workers=data.workers, time_limit_s=data.time_limit_s) as pool:
        scanned = scan_videos(videos, pool=pool, memory=root / "scans", reporter=reporter, stop=stop)
    return ScannedData(groups=groups, scanned=scanned)


@no_collection()
def summarize(recipe: TrainingRecipe, found: ScannedData) -> DataSummary:
    """Count what suits a recipe.

    Raises:
        DatasetError: The training would end before its first step: too few stories, or too short ones.
    """
    geometries = [
        SceneGeometry.of_pixels(num_frames=size.num_frames, height=size.height, width=size.width)
        for size in recipe.video.sizes
    ]
    library = story_library(recipe, found.groups, found.scanned, geometries)
    check_held_out(recipe, library)
    StageSampler(
        stage=recipe.stage,
        objective=recipe.objective,
        story_range=(0, library.first_held_out(recipe.data.held_out)),
        scene_counts=library.scene_counts,
        buckets=library.buckets,
        num_scenes=recipe.num_scenes,
        # Decides nothing about the stories.
        num_timesteps=1,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    return DataSummary(
        num_videos=library.num_videos,
        num_stories=library.num_stories,
        num_readable=library.num_readable,
        num_scenes=sum(library.scene_counts),
        held_out=recipe.data.held_out,
        rejects=tuple(library.rejects),
    )
