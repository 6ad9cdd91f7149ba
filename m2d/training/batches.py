"""Batches for the objective: the sampler's indices become latents, captions and noise.

Owns caption dropout and the noise's seeds; draws no indices itself.
"""

# B batch, N scenes

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from m2d.diffusion.noise import draw_noise
from m2d.training.cache import StoryLatents
from m2d.training.objective import TrainingBatch
from m2d.training.recipe import TrainingRecipe
from m2d.training.sampling import BatchDraw, StageSampler


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMaker:
    """Turns draws into batches on one device; noise belongs to (seed, purpose, step, place in the batch).

    A sample's noise is its own, so that a batch can be shared out over processes and still be the same.
    """

    stories: StoryLatents
    seed: int
    purpose: str
    device: torch.device

    def make(self, draw: BatchDraw, *, step: int, first: int = 0) -> TrainingBatch:
        """Collect the clips of `draw` and the noise of `step`.

        Args:
            draw: A batch, or consecutive samples of one.
            step: The training step.
            first: Place of the draw's first sample in the whole batch.
        """
        latents_BFCHW, embeds_BLD = self.stories.gather(draw.stories_BN, draw.scenes_BN, epoch=draw.epoch)
        if bool(draw.drops_caption_B.any()):
            num_scenes = draw.stories_BN.shape[1]
            embeds_BLD[draw.drops_caption_B] = self.stories.empty_embeds_LD.repeat(num_scenes, 1)
        places = range(first, first + len(latents_BFCHW))
        noise_BFCHW = torch.stack([self._noise(latents_BFCHW.shape[1:], step, place) for place in places])
        return TrainingBatch(
            latents_BFCHW=latents_BFCHW.to(self.device),
            noise_BFCHW=noise_BFCHW.to(self.device),
            prompt_embeds_BLD=embeds_BLD.to(self.device),
            timesteps_BN=draw.timesteps_BN.to(self.device),
            is_target_BN=draw.is_target_BN.to(self.device),
        )

    def _noise(self, shape: torch.Size, step: int, place: int) -> Tensor:
        return draw_noise(shape, seed=self.seed, purpose=self.purpose, step=step, scene=place)


def make_sampler(
    recipe: TrainingRecipe, stories: StoryLatents, *, num_timesteps: int, held_out: bool
) -> StageSampler:
    """Return the sampler of a recipe's stage, over the stories trained on or over the held-out ones."""
    boundary = stories.num_stories - recipe.data.held_out
    objective = recipe.objective.model_copy(update={"caption_dropout": 0.0}) if held_out else recipe.objective
    counts = stories.scene_counts
    num_held_out = sum(counts[boundary:]) if recipe.stage == "base" else recipe.data.held_out
    held_out_batch = min(recipe.batch_size, recipe.evaluation.num_samples, num_held_out)
    return StageSampler(
        recipe.stage,
        objective=objective,
        story_range=(boundary, stories.num_stories) if held_out else (0, boundary),
        scenes_per_story=counts,
        num_scenes=recipe.num_scenes,
        num_timesteps=num_timesteps,
        batch_size=held_out_batch if held_out else recipe.batch_size,
        seed=recipe.seed,
    )


def held_out_batches(
    recipe: TrainingRecipe, stories: StoryLatents, *, num_timesteps: int, device: torch.device
) -> Iterator[TrainingBatch]:
    """Yield the held-out batches: the same clips, timesteps and noise every time."""
    sampler = make_sampler(recipe, stories, num_timesteps=num_timesteps, held_out=True)
    maker = BatchMaker(stories=stories, seed=recipe.seed, purpose="held-out noise", device=device)
    for step in range(-(-recipe.evaluation.num_samples // sampler.batch_size)):
        yield maker.make(sampler.draw(step), step=step)
