"""Makes, extends and re-rolls films of held-out stories, by the tasks behind the commands.

Owns the prompts and recipe of a story; `benchmarks.growth` measures the films.
"""

# N scenes, P frames, C channels, H height, W width.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from m2d.families.family import SceneVae
from m2d.families.source import ModelSource
from m2d.film.inherit import plan_on
from m2d.film.make import FilmResult, RunOptions
from m2d.model.pixels import from_pixels
from m2d.progress import Reporter, SilentReporter
from m2d.puppet.captions import setting_text
from m2d.puppet.story import Story
from m2d.puppet.vocabulary import ACTIONS, ACTORS
from m2d.recipe.overrides import Overrides
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks import extend, generate, reroll
from m2d.video.run_folder import read_run

STORY_SEED = 881
"""Seed of the collection of stories, which no training uses, and of their sampling."""
NUM_JOINT = 3
"""Scenes that are generated jointly, before any are appended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Films:
    """The folder and settings with which films are made."""

    folder: Path
    source: ModelSource
    vae: SceneVae
    steps: int
    guidance: float
    context: Literal["first", "recent"] = "first"

    def generate(self, story: Story, *, num_scenes: int, name: str) -> FilmResult:
        """Generate the first scenes of a story."""
        recipe = recipe_of(
            story, self.source, scenes=range(num_scenes), steps=self.steps, guidance=self.guidance
        )
        plan = plan_on(
            recipe.model_copy(update={"context": self.context}),
            self.source,
            None,
            overrides=Overrides(out=self.folder / f"{name}.mp4"),
        )
        return generate.run(plan, get_backend(plan.backend), reporter=SilentReporter())

    def extend(self, film: Path, *prompts: str, reporter: Reporter | None = None) -> FilmResult:
        """Append scenes to a film, in place."""
        return extend.run(
            extend.Extension(film=film, prompts=prompts, model=self.source.name),
            find_backend=get_backend,
            reporter=reporter or SilentReporter(),
            overrides=Overrides(out=film),
            options=RunOptions(force=True),
        )

    def reroll(self, film: Path, scene: int) -> FilmResult:
        """Regenerate one scene, in a new film beside the old one."""
        return reroll.run(
            reroll.Reroll(film=film, scenes=(scene,), model=self.source.name),
            find_backend=get_backend,
            reporter=SilentReporter(),
            overrides=Overrides(),
            options=RunOptions(force=True),
        )


def prompt_of(story: Story, number: int) -> str:
    """Return the prompt of a scene for a recipe with cast and setting."""
    actions = story.scenes[number].actions
    said = [
        f"{ACTORS[actor]} {ACTIONS[action]}." for actor, action in enumerate(actions) if action is not None
    ]
    return " ".join(said)


def recipe_of(story: Story, source: ModelSource, *, scenes: range, steps: int, guidance: float) -> Recipe:
    """Return the recipe of some scenes of a story."""
    return Recipe.model_validate(
        {
            "title": "Held-out story",
            "model": source.name,
            "cast": {name: actor.description for name, actor in zip(ACTORS, story.cast, strict=True)},
            "setting": setting_text(story.backdrop),
            "scenes": tuple(prompt_of(story, number) for number in scenes),
            "sampling": {"num_inference_steps": steps, "guidance_scale": guidance, "seed": STORY_SEED},
        }
    )


def frames_of(film: Path, vae: SceneVae) -> Tensor:
    """Decode the latents of a film's scenes; frames_NPCHW in 0..1."""
    scenes = [vae.decode(torch.from_numpy(latents)) for latents in read_run(film).latents_FCHW]
    return torch.stack([(from_pixels(frames_PHWC) + 1) / 2 for frames_PHWC in scenes])
