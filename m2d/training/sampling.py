"""Clips, timesteps and conditioning of every training step, as a pure function of (seed, step).

Owns the order of the data and all random draws except the noise; reads no data. The three stages differ only
here: `base` takes single scenes, `pretrain` joins scenes of unrelated stories (Eq. 3), `sft` takes whole
stories and, in a share of the samples, makes all scenes but one clean context (Eq. 2).
"""

# B batch, N scenes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from m2d.diffusion.noise import generator
from m2d.errors import DatasetError
from m2d.training.recipe import Stage
from m2d.training.recipe_parts import ObjectiveRecipe
from m2d.video.printable import counted


class BatchDraw(NamedTuple):
    """One batch, by indices.

    Attributes:
        stories_BN: Story of every scene slot.
        scenes_BN: Scene within that story.
        timesteps_BN: Timestep per scene, int64; 0 for clean context.
        is_target_BN: Scenes that are noised and count in the loss.
        drops_caption_B: Samples whose captions are replaced by the empty prompt.
        has_image_BN: Target scenes whose first latent frame is clean.
        epoch: Number of finished passes over the samples; selects the clip of a shot.
    """

    stories_BN: Tensor
    scenes_BN: Tensor
    timesteps_BN: Tensor
    is_target_BN: Tensor
    drops_caption_B: Tensor
    has_image_BN: Tensor
    epoch: int = 0

    def part(self, places: slice) -> BatchDraw:
        """Return the samples at `places`."""
        return BatchDraw(
            stories_BN=self.stories_BN[places],
            scenes_BN=self.scenes_BN[places],
            timesteps_BN=self.timesteps_BN[places],
            is_target_BN=self.is_target_BN[places],
            drops_caption_B=self.drops_caption_B[places],
            has_image_BN=self.has_image_BN[places],
            epoch=self.epoch,
        )

    def describe(self) -> list[str]:
        """Name every sample as `story:scene+story:scene`, for reports."""
        return [
            "+".join(f"{story}:{scene}" for story, scene in zip(stories, scenes, strict=True))
            for stories, scenes in zip(self.stories_BN.tolist(), self.scenes_BN.tolist(), strict=True)
        ]


@dataclass(kw_only=True)
class StageSampler:
    """Draws the batches of one stage; every epoch has each sample once, without a last, short batch.

    Attributes:
        story_range: First story to draw from and one past the last.
        scene_counts: Scenes of every story, those outside the range included.
        num_scenes: Scenes per sample.
        buckets: A number for every story, as `scene_counts`; all samples of a batch have one. None if there
            is one for all.

    Raises:
        DatasetError: The stories are too few or too short for one batch.
    """

    stage: Stage
    objective: ObjectiveRecipe
    story_range: tuple[int, int]
    scene_counts: Sequence[int]
    num_scenes: int
    num_timesteps: int
    batch_size: int
    seed: int
    buckets: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self._first_story, stop = self.story_range
        self._num_stories = stop - self._first_story
        self._counts_S = torch.tensor(self.scene_counts[self._first_story : stop], dtype=torch.int64)
        buckets = [0] * stop if self.buckets is None else self.buckets
        self._buckets_S = torch.tensor(buckets[self._first_story : stop], dtype=torch.int64)
        self._epoch = -1
        self._clips_EN2 = torch.empty(0, self.num_scenes, 2, dtype=torch.int64)
        self._check()
        self._num_batches = sum(count // self.batch_size for count in self._bucket_sizes())

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return int(self._counts_S.sum()) if self.stage == "base" else self._num_stories

    def draw(self, step: int) -> BatchDraw:
        """Return the batch of `step`, independent of earlier calls."""
        epoch, place = divmod(step, self._num_batches)
        if epoch != self._epoch:
            self._clips_EN2, self._epoch = self._draw_epoch(epoch), epoch
        clips_BN2 = self._clips_EN2[place * self.batch_size : (place + 1) * self.batch_size]
        draws = generator(self.seed, purpose="objective", step=step)
        timesteps_B = self._draw_timesteps(draws)
        is_target_BN = self._draw_targets(draws)
        drops_caption_B = torch.rand(self.batch_size, generator=draws) < self.objective.caption_dropout
        return BatchDraw(
            stories_BN=clips_BN2[..., 0] + self._first_story,
            scenes_BN=clips_BN2[..., 1],
            timesteps_BN=torch.where(is_target_BN, timesteps_B[:, None], 0),
            is_target_BN=is_target_BN,
            drops_caption_B=drops_caption_B,
            has_image_BN=is_target_BN & self._draw_images(draws),
            epoch=epoch,
        )

    def _draw_epoch(self, epoch: int) -> Tensor:
        """Return (samples, N, 2) story and scene indices of one epoch, shuffled."""
        order = generator(self.seed, purpose="order", step=epoch)
        samples_E = torch.randperm(self.num_samples, generator=order)
        buckets_E = self._buckets_of(samples_E)
        every = [samples_E[buckets_E == bucket] for bucket in range(len(self._bucket_sizes()))]
        parts = [part for part in every if len(part)]
        if len(parts) == 1:
            return self._joined(samples_E, order)
        joined = [self._joined(part, order) for part in parts]
        whole = [part[: len(part) // self.batch_size * self.batch_size] for part in joined]
        batches = torch.cat(whole).view(-1, self.batch_size, self.num_scenes, 2)
        return batches[torch.randperm(len(batches), generator=order)].flatten(0, 1)

    def _bucket_sizes(self) -> list[int]:
        """Return the samples of each bucket."""
        sizes: list[int] = torch.bincount(self._buckets_of(torch.arange(self.num_samples))).tolist()
        return sizes

    def _buckets_of(self, samples_E: Tensor) -> Tensor:
        if self.stage == "base":
            return self._buckets_S.repeat_interleave(self._counts_S)[samples_E]
        return self._buckets_S[samples_E]

    def _joined(self, samples_E: Tensor, order: torch.Generator) -> Tensor:
        """Return (samples, N, 2) story and scene indices of samples, which share scenes in stage pretrain."""
        slots_N = torch.arange(self.num_scenes)
        if self.stage == "base":
            ends_S = self._counts_S.cumsum(0)
            stories_EN = torch.searchsorted(ends_S, samples_E, right=True)[:, None]
            scenes_EN = samples_E[:, None] - (ends_S - self._counts_S)[stories_EN]
        elif self.stage == "pretrain":
            # Distinct offsets into one shuffled order give every sample n different stories.
            count = len(samples_E)
            offsets_N = torch.randperm(count, generator=order)[: self.num_scenes]
            places_EN = (torch.arange(count)[:, None] + offsets_N) % count
            stories_EN = samples_E[places_EN]
            scenes_EN = _draw_below(self._counts_S[stories_EN], order)
        else:
            stories_EN = samples_E[:, None].expand(-1, self.num_scenes)
            starts_E1 = self._counts_S[samples_E[:, None]] - self.num_scenes + 1
            scenes_EN = _draw_below(starts_E1, order) + slots_N
        return torch.stack((stories_EN, scenes_EN), dim=-1)

    def _draw_timesteps(self, draws: torch.Generator) -> Tensor:
        # One draw from each of B equal strata: the same marginals, but the batch's loss varies less.
        places_B = torch.randperm(self.batch_size, generator=draws)
        quantiles_B = (places_B + torch.rand(self.batch_size, generator=draws)) / self.batch_size
        if self.objective.timesteps == "logit_normal":
            curved_B = torch.special.ndtri(quantiles_B.clamp(1e-6, 1 - 1e-6)).sigmoid()
            # Without a draw, recipes without a share keep the same later draws.
            share = self.objective.uniform_share
            stays_B = torch.rand(self.batch_size, generator=draws) < share if share else torch.tensor(False)
            quantiles_B = torch.where(stays_B, quantiles_B, curved_B)
        return (quantiles_B * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def _draw_targets(self, draws: torch.Generator) -> Tensor:
        is_conditional_B = (
            torch.rand(self.batch_size, generator=draws) < self.objective.conditional_probability
        )
        target_B = torch.randint(self.num_scenes, (self.batch_size,), generator=draws)
        if self.objective.targets == "last":
            target_B = torch.full_like(target_B, self.num_scenes - 1)
        is_chosen_BN = torch.arange(self.num_scenes) == target_B[:, None]
        return is_chosen_BN | ~is_conditional_B[:, None]

    def _draw_images(self, draws: torch.Generator) -> Tensor:
        share = self.objective.image_probability
        return torch.rand(self.batch_size, self.num_scenes, generator=draws) < share

    def _check(self) -> None:
        needed = self.num_scenes if self.stage == "sft" else 1
        fewest = int(self._counts_S.min())
        if fewest < needed:
            raise DatasetError(
                f"num_scenes: {self.num_scenes}, but the stories have {fewest} scenes; use at most {fewest}"
            )
        if self.stage == "pretrain" and self._num_stories < self.num_scenes:
            raise DatasetError(
                f"{self._num_stories} stories cannot give {self.num_scenes} different ones per sample; "
                "use more stories"
            )
        if self.num_samples < self.batch_size:
            raise DatasetError(
                f"batch_size: {self.batch_size} is more than the {self.num_samples} samples there are; "
                "use a smaller batch or more stories"
            )
        needed = max(self.batch_size, self.num_scenes if self.stage == "pretrain" else 1)
        for bucket, count in enumerate(self._bucket_sizes()):
            if 0 < count < needed:
                raise DatasetError(
                    f"video.buckets: size {bucket} (0 is that of `video` itself) has "
                    f"{counted(count, 'sample')}, and a batch takes {needed} of one size; remove it, or use "
                    "a smaller batch or more stories"
                )


def _draw_below(limits: Tensor, draws: torch.Generator) -> Tensor:
    """Draw an integer in [0, limit) for each of `limits`."""
    first = int(limits.flatten()[0])
    if bool((limits == first).all()):
        return torch.randint(first, limits.shape, generator=draws)
    return (torch.rand(limits.shape, generator=draws, dtype=torch.float64) * limits).long()
