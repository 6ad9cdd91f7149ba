"""Batches for the objective: turn the sampler's indices into latents, prompt embeddings and noise.

Owns caption dropout and the seeds of the noise; `sampling` draws the indices.
"""

# B batch, N scenes

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Turns draws into batches on one device.

    The noise of a sample depends only on (seed, purpose, step, place in the batch), so a batch that is split
    over processes stays the same batch.
    """

    stories: StoryLatents
    seed: int
    purpose: str
    device: torch.device

    def make(self, draw: BatchDraw, *, step: int, first: int = 0) -> TrainingBatch:
        """Collect the clips of `draw` and the noise of `step`.

        Args:
            draw: A batch, or consecutive samples of one.
            first: Place of the draw's first sample in the whole batch.
        """
        return _moved(self.collect(draw, step=step, first=first), self.device)

    def collect(
        self, draw: BatchDraw, *, step: int, first: int = 0, pool: ThreadPoolExecutor | None = None
    ) -> TrainingBatch:
        """Make the batch as `make` does, but in the CPU's memory.

        Args:
            pool: Threads that draw the noise of several samples at once; the numbers stay the same.
        """
        latents_BFCHW, embeds_BLD = self.stories.gather(draw.stories_BN, draw.scenes_BN, epoch=draw.epoch)
        if bool(draw.drops_caption_B.any()):
            num_scenes = draw.stories_BN.shape[1]
            embeds_BLD[draw.drops_caption_B] = self.stories.empty_embeds_LD.repeat(num_scenes, 1)
        places = range(first, first + len(latents_BFCHW))
        shape = latents_BFCHW.shape[1:]

        def noise(place: int) -> Tensor:
            return draw_noise(shape, seed=self.seed, purpose=self.purpose, step=step, scene=place)

        return TrainingBatch(
            latents_BFCHW=latents_BFCHW,
            noise_BFCHW=torch.stack(list((map if pool is None else pool.map)(noise, places))),
            prompt_embeds_BLD=embeds_BLD,
            timesteps_BN=draw.timesteps_BN,
            is_target_BN=draw.is_target_BN,
            has_image_BN=draw.has_image_BN,
        )


class BatchesAhead:
    """Prepares the next batch in threads while a GPU computes; the batches equal those of `BatchMaker`.

    On a CPU the threads would take cores from the model: there only the stories prepare their next clips.
    """

    def __init__(self, maker: BatchMaker) -> None:
        """Start the threads, unless the model runs on the CPU."""
        self._maker = maker
        self._is_ahead = maker.device.type != "cpu"
        self._expected: tuple[tuple[int, int], Future[TrainingBatch]] | None = None
        if self._is_ahead:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
            self._pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 16), thread_name_prefix="noise")

    def make(self, draw: BatchDraw, *, step: int, first: int = 0) -> TrainingBatch:
        """Return the batch, prepared if `expect` announced it; arguments as in `BatchMaker.make`."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[0] == (step, first):
            return _moved(expected[1].result(), self._maker.device)
        return self._maker.make(draw, step=step, first=first)

    def expect(self, draw: BatchDraw, *, step: int, first: int = 0) -> None:
        """Start to prepare the batch that the next `make` will return."""
        if not self._is_ahead:
            self._maker.stories.expect(draw.stories_BN, draw.scenes_BN, epoch=draw.epoch)
            return
        self._expected = (step, first), self._thread.submit(self._collect, draw, step, first)

    def _collect(self, draw: BatchDraw, step: int, first: int) -> TrainingBatch:
        batch = self._maker.collect(draw, step=step, first=first, pool=self._pool)
        is_cuda = self._maker.device.type == "cuda"
        return TrainingBatch(*(value.pin_memory() for value in batch)) if is_cuda else batch


def _moved(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    # Copies from pinned memory are asynchronous and keep the order of the device's other work.
    return TrainingBatch(*(value.to(device, non_blocking=True) for value in batch))


def make_sampler(
    recipe: TrainingRecipe, stories: StoryLatents, *, num_timesteps: int, held_out: bool
) -> StageSampler:
    """Return the sampler of a recipe's stage, over the training stories or over the held-out ones."""
    boundary = stories.first_held_out(recipe.data.held_out)
    objective = recipe.objective.model_copy(update={"caption_dropout": 0.0}) if held_out else recipe.objective
    counts = stories.scene_counts
    num_held_out = sum(counts[boundary:]) if recipe.stage == "base" else stories.num_stories - boundary
    fewest = min(Counter(stories.buckets[boundary:]).values(), default=num_held_out)
    held_out_batch = min(recipe.batch_size, recipe.evaluation.num_samples, num_held_out, fewest)
    return StageSampler(
        stage=recipe.stage,
        objective=objective,
        story_range=(boundary, stories.num_stories) if held_out else (0, boundary),
        scene_counts=counts,
        num_scenes=recipe.num_scenes,
        num_timesteps=num_timesteps,
        batch_size=held_out_batch if held_out else recipe.batch_size,
        seed=recipe.seed,
        buckets=stories.buckets,
    )


def held_out_batches(
    recipe: TrainingRecipe, stories: StoryLatents, *, num_timesteps: int, device: torch.device
) -> Iterator[TrainingBatch]:
    """Yield the held-out batches, with the same clips, timesteps and noise at every call."""
    sampler = make_sampler(recipe, stories, num_timesteps=num_timesteps, held_out=True)
    maker = BatchMaker(stories=stories, seed=recipe.seed, purpose="held-out noise", device=device)
    for step in range(-(-recipe.evaluation.num_samples // sampler.batch_size)):
        yield maker.make(sampler.draw(step), step=step)
