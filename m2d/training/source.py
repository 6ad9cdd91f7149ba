"""The protocol of rendered stories, and the choice of a source by name.

Renders nothing itself.
"""

# N scenes, P pixel frames, C colour channels, H W pixel height and width

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from m2d.geometry import SceneGeometry
from m2d.training.recipe import DataRecipe


class StoryClips(Protocol):
    """One story's scenes."""

    @property
    def frames_NPCHW(self) -> Tensor:
        """Pixels, float32 in [-1, 1]."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """One prompt per scene, in the wording for the text encoder."""


class StorySource(Protocol):
    """A fixed, indexable set of stories: the same index always gives the same story."""

    @property
    def num_stories(self) -> int:
        """Number of stories."""

    @property
    def num_scenes(self) -> int:
        """Scenes of every story."""

    @property
    def digest(self) -> str:
        """Digest that changes whenever `render` would return another story for any index."""

    def render(self, index: int) -> StoryClips:
        """Return story `index`."""

    def render_batch(self, indices: Sequence[int]) -> Sequence[StoryClips]:
        """Return several stories, in the order asked for."""


def open_source(data: DataRecipe, geometry: SceneGeometry) -> StorySource:
    """Open the source that a recipe's `data` names, for scenes of `geometry`.

    Raises:
        DatasetError: The recipe names an unknown hat.
    """
    from m2d.puppet.dataset import PuppetStories, wardrobe_with

    # A rule of the recipe.
    assert data.num_stories is not None
    return PuppetStories(
        num_stories=data.num_stories,
        seed=data.seed,
        geometry=geometry,
        wardrobe=wardrobe_with(data.hats),
        changing=data.changing,
    )
