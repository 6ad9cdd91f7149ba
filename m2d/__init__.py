"""m2d: multi-scene video from a diffusion transformer (Mask2DiT, CVPR 2025).

`from m2d import Story, StoryPipeline, generate, extend, reroll`. Each name is imported when it is first used:
importing m2d itself imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2d.film.make import FilmResult, RunOptions
    from m2d.library import extend, generate, reroll
    from m2d.pipeline.story import SceneOutput, StoryOutput, StoryPipeline
    from m2d.recipe.story import Story

__version__ = "0.1.0"

__all__ = [
    "FilmResult",
    "RunOptions",
    "SceneOutput",
    "Story",
    "StoryOutput",
    "StoryPipeline",
    "__version__",
    "extend",
    "generate",
    "reroll",
]

_HOMES = {
    "FilmResult": "m2d.film.make",
    "RunOptions": "m2d.film.make",
    "SceneOutput": "m2d.pipeline.story",
    "Story": "m2d.recipe.story",
    "StoryOutput": "m2d.pipeline.story",
    "StoryPipeline": "m2d.pipeline.story",
    "extend": "m2d.library",
    "generate": "m2d.library",
    "reroll": "m2d.library",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'm2d' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
