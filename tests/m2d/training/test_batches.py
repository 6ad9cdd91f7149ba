from __future__ import annotations

from collections.abc import Callable

import torch

from m2d.training.batches import BatchMaker, make_sampler
from m2d.training.cache import EncodedStories
from m2d.training.recipe import TrainingRecipe


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
