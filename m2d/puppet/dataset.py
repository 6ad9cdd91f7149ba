"""Rendered puppet stories for training; an index always gives the same frames and captions.

Shapes: N scenes, P frames, C = 3 colours, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2d.errors import DatasetError
from m2d.geometry import SceneGeometry
from m2d.puppet.captions import varied_caption
from m2d.puppet.puppets import NEW_HATS
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.story import ACTOR_SIZE, Story, sample_story
from m2d.puppet.vocabulary import HATS

# Part of every digest: increase it when the world's appearance, motion or words change.
WORLD_VERSION = 4
_BATCH = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class PuppetStory:
    """One rendered story: pixels, float32 in [-1, 1], and one caption per scene."""

    frames_NPCHW: Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PuppetStories:
    """A collection of random stories.

    Attributes:
        geometry: Size of every scene.
        num_scenes: Scenes per story.
        wardrobe: The hat drawn for each of HATS; captions still use the name in HATS.
        changing: Share of the stories whose scenes change place or time.
    """

    num_stories: int
    seed: int
    geometry: SceneGeometry
    num_scenes: int = 3
    wardrobe: tuple[str, ...] = HATS
    changing: float = 0.0

    @property
    def digest(self) -> str:
        """Digest of the rendering of every index, independent of `num_stories`."""
        size = (self.geometry.num_frames, self.geometry.height, self.geometry.width)
        clothes = "" if self.wardrobe == HATS else f" {self.wardrobe}"
        changing = f" changing {self.changing}" if self.changing else ""
        return hashlib.sha256(
            f"puppet {WORLD_VERSION} {self.seed} {size} {self.num_scenes}{clothes}{changing}".encode()
        ).hexdigest()

    def story(self, index: int) -> Story:
        """Return the contents of story `index`."""
        if not 0 <= index < self.num_stories:
            raise IndexError(f"story {index} of {self.num_stories}")
        return sample_story(seed=self.seed, index=index, num_scenes=self.num_scenes, changing=self.changing)

    def prompts(self, index: int) -> tuple[str, ...]:
        """Return one caption per scene of story `index`, in varied wording."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        story = self.story(index)
        return tuple(varied_caption(story, scene, draw=draw) for scene in story.scenes)

    def shared_properties(self) -> Tensor:
        """Return what all scenes of a story share and no prompt names, float32 (num_stories, 2).

        The actors' size, from 0 for the smallest to 1, and their eyes, an index into EYES.
        """
        backdrops = [self.story(index).backdrop for index in range(self.num_stories)]
        low, high = ACTOR_SIZE
        return torch.tensor(
            [((each.actor_size - low) / (high - low), float(each.eyes)) for each in backdrops]
        )

    def render(self, index: int) -> PuppetStory:
        """Return story `index`."""
        return self.render_batch([index])[0]

    def render_batch(self, indices: Sequence[int]) -> list[PuppetStory]:
        """Return several stories, in the order asked for."""
        stories = []
        for start in range(0, len(indices), _BATCH):
            stories += self._render(indices[start : start + _BATCH])
        return stories

    def _render(self, indices: Sequence[int]) -> list[PuppetStory]:
        clips = [Clip(story, scene) for story in map(self.story, indices) for scene in story.scenes]
        size = self.geometry
        frames = render_clips(
            clips,
            num_frames=size.num_frames,
            height=size.height,
            width=size.width,
            wardrobe=self.wardrobe,
        )
        frames = frames * 2 - 1
        return [
            PuppetStory(frames_NPCHW=frames_NPCHW, prompts=self.prompts(index))
            for index, frames_NPCHW in zip(indices, torch.split(frames, self.num_scenes), strict=True)
        ]


def wardrobe_with(replaced: Mapping[str, str], *, field: str = "data.hats") -> tuple[str, ...]:
    """Return the hat drawn for each of HATS, after replacing those in `replaced`.

    Args:
        field: The name of the replacements in an error.

    Raises:
        DatasetError: `replaced` names an unknown hat.
    """
    unknown = [hat for hat in replaced if hat not in HATS] + [
        hat for hat in replaced.values() if hat not in (*HATS, *NEW_HATS)
    ]
    if unknown:
        raise DatasetError(
            f"{field}: {', '.join(map(repr, unknown))} unknown; the theatre has {', '.join(HATS)}, and can "
            f"draw them as {', '.join(NEW_HATS)}"
        )
    return tuple(replaced.get(hat, hat) for hat in HATS)
