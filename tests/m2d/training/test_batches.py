from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from m2d.training.batches import BatchesAhead, BatchMaker, make_sampler
from m2d.training.cache import EncodedStories
from m2d.training.objective import TrainingBatch
from m2d.training.recipe import TrainingRecipe
from m2d.training.sampling import BatchDraw


def test_a_batch_made_in_parts_is_the_batch_made_at_once(
    encoded: EncodedStories, make_recipe: Callable[..., TrainingRecipe]
) -> None:
    recipe = make_recipe(objective={"caption_dropout": 0.5, "conditional_probability": 0.5})
    maker = BatchMaker(stories=encoded, seed=5, purpose="noise", device=torch.device("cpu"))
    draw = make_sampler(recipe, encoded, num_timesteps=1000, held_out=False).draw(3)
    whole = maker.make(draw, step=3)
    parts = [maker.make(draw.part(slice(first, first + 2)), step=3, first=first) for first in (0, 2)]
    for name in ("latents_BFCHW", "noise_BFCHW", "prompt_embeds_BLD", "timesteps_BN", "is_target_BN"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    assert not torch.equal(whole.noise_BFCHW[0], whole.noise_BFCHW[1])
    assert not torch.equal(whole.noise_BFCHW, maker.make(draw, step=4).noise_BFCHW)


def test_batches_made_ahead_for_another_device_are_the_batches_made_when_asked_for(
    encoded: EncodedStories, make_recipe: Callable[..., TrainingRecipe]
) -> None:
    recipe = make_recipe(objective={"caption_dropout": 0.5, "conditional_probability": 0.5})
    sampler = make_sampler(recipe, encoded, num_timesteps=1000, held_out=False)
    # The meta device keeps shapes alone, so what is compared is what was collected for it.
    here, elsewhere = (
        BatchMaker(stories=encoded, seed=5, purpose="noise", device=torch.device(name))
        for name in ("cpu", "meta")
    )
    collected: list[TrainingBatch] = []

    class Kept(BatchesAhead):
        def _collect(self, draw: BatchDraw, step: int, first: int) -> TrainingBatch:
            collected.append(super()._collect(draw, step, first))
            return collected[-1]

    ahead = Kept(elsewhere)
    for step, first in ((3, 0), (4, 2)):
        draw = sampler.draw(step).part(slice(first, first + 2))
        ahead.expect(draw, step=step, first=first)
        assert ahead.make(draw, step=step, first=first).noise_BFCHW.device.type == "meta"
        asked = here.make(draw, step=step, first=first)
        for name in asked._fields:
            assert torch.equal(getattr(collected[-1], name), getattr(asked, name)), name
    ahead.make(sampler.draw(7), step=7)
    assert len(collected) == 2


def test_what_goes_wrong_ahead_is_told_where_the_batch_is_asked_for(
    encoded: EncodedStories, make_recipe: Callable[..., TrainingRecipe]
) -> None:
    draw = make_sampler(make_recipe(), encoded, num_timesteps=1000, held_out=False).draw(0)
    missing = draw._replace(stories_BN=draw.stories_BN + 10_000)
    ahead = BatchesAhead(BatchMaker(stories=encoded, seed=5, purpose="n", device=torch.device("meta")))
    ahead.expect(missing, step=0)
    with pytest.raises(IndexError):
        ahead.make(missing, step=0)
