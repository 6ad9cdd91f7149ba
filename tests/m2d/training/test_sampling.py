from __future__ import annotations

from typing import Any

import pytest
import torch

from m2d.errors import DatasetError
from m2d.training.recipe_parts import ObjectiveRecipe
from m2d.training.sampling import StageSampler


def _sampler(stage: Any, **changes: Any) -> StageSampler:
    arguments = {
        "objective": ObjectiveRecipe(),
        "story_range": (10, 34),
        "scene_counts": [3] * 34,
        "num_scenes": 1 if stage == "base" else 3,
        "num_timesteps": 1000,
        "batch_size": 8,
        "seed": 3,
    }
    return StageSampler(stage=stage, **{**arguments, **changes})


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    straight = [_sampler("sft").draw(step) for step in range(9)]
    sampler = _sampler("sft")
    for step in (8, 0, 4, 3):
        draw = sampler.draw(step)
        assert torch.equal(draw.stories_BN, straight[step].stories_BN)
        assert torch.equal(draw.timesteps_BN, straight[step].timesteps_BN)
    assert not torch.equal(_sampler("sft", seed=4).draw(0).stories_BN, straight[0].stories_BN)


def test_base_shows_every_scene_once_per_epoch() -> None:
    sampler = _sampler("base")
    draws = [sampler.draw(step) for step in range(sampler.num_samples // 8)]
    clips = {
        (int(story), int(scene))
        for d in draws
        for story, scene in zip(d.stories_BN, d.scenes_BN, strict=True)
    }
    assert clips == {(story, scene) for story in range(10, 34) for scene in range(3)}


def test_pretrain_never_joins_scenes_of_one_story() -> None:
    sampler = _sampler("pretrain", story_range=(0, 4), batch_size=4)
    for step in range(50):
        for stories in sampler.draw(step).stories_BN.tolist():
            assert len(set(stories)) == 3


def test_sft_takes_consecutive_scenes_of_one_story() -> None:
    sampler = _sampler("sft", num_scenes=2)
    starts = set()
    for step in range(6):
        draw = sampler.draw(step)
        assert bool((draw.stories_BN[:, 0] == draw.stories_BN[:, 1]).all())
        assert bool((draw.scenes_BN[:, 1] == draw.scenes_BN[:, 0] + 1).all())
        starts |= set(draw.scenes_BN[:, 0].tolist())
    assert starts == {0, 1}


@pytest.mark.parametrize("stage", ["base", "pretrain"])
def test_without_conditioning_every_scene_is_a_target_at_the_samples_timestep(stage: str) -> None:
    draw = _sampler(stage).draw(0)
    assert bool(draw.is_target_BN.all())
    assert bool((draw.timesteps_BN == draw.timesteps_BN[:, :1]).all())


def test_conditional_samples_have_clean_context_and_the_last_scene_as_target() -> None:
    draw = _sampler("sft", objective=ObjectiveRecipe(conditional_probability=1.0)).draw(0)
    assert draw.is_target_BN.tolist() == [[False, False, True]] * 8
    assert bool((draw.timesteps_BN[:, :2] == 0).all())
    assert bool((draw.timesteps_BN[:, 2] > 0).any())


def test_random_targets_visit_every_scene() -> None:
    objective = ObjectiveRecipe(conditional_probability=1.0, targets="random")
    sampler = _sampler("sft", objective=objective)
    targets = torch.cat([sampler.draw(step).is_target_BN for step in range(12)])
    assert bool((targets.sum(dim=1) == 1).all())
    assert bool(targets.any(dim=0).all())


def test_targets_alone_start_from_pictures() -> None:
    objective = {"conditional_probability": 0.5, "targets": "random"}
    sampler = _sampler("sft", objective=ObjectiveRecipe(**objective, image_probability=0.4))
    draws = [sampler.draw(step) for step in range(200)]
    targets, images = (
        torch.cat([getattr(draw, name) for draw in draws]) for name in ("is_target_BN", "has_image_BN")
    )
    assert not bool((images & ~targets).any())
    # Some 3,200 coins: four standard deviations are 0.035.
    assert abs(float(images[targets].float().mean()) - 0.4) < 0.035
    without = _sampler("sft", objective=ObjectiveRecipe(**objective)).draw(3)
    assert torch.equal(without.timesteps_BN, draws[3].timesteps_BN)
    assert not bool(without.has_image_BN.any())


def test_half_of_the_samples_are_conditional_at_probability_one_half() -> None:
    sampler = _sampler("sft", objective=ObjectiveRecipe(conditional_probability=0.5))
    is_full = torch.cat([sampler.draw(step).is_target_BN.all(dim=1) for step in range(250)])
    # 2,000 coins: four standard deviations are 0.045.
    assert abs(float(is_full.float().mean()) - 0.5) < 0.045


def test_a_batchs_uniform_timesteps_cover_the_range_evenly() -> None:
    timesteps_B = _sampler("sft").draw(5).timesteps_BN[:, 0]
    assert sorted((timesteps_B * 8 // 1000).tolist()) == list(range(8))


def test_logit_normal_timesteps_prefer_the_middle_and_stay_in_range() -> None:
    sampler = _sampler("sft", objective=ObjectiveRecipe(timesteps="logit_normal"))
    timesteps = torch.cat([sampler.draw(step).timesteps_BN[:, 0] for step in range(100)])
    assert 0 <= int(timesteps.min()) <= int(timesteps.max()) <= 999
    # The share within (250, 750) is that of a standard normal within +-log(3): 0.728.
    middle = (timesteps > 250) & (timesteps < 750)
    assert abs(float(middle.float().mean()) - 0.728) < 0.03


def test_a_share_of_logit_normal_timesteps_can_stay_uniform() -> None:
    objective = ObjectiveRecipe(timesteps="logit_normal", uniform_share=0.4)
    sampler = _sampler("sft", objective=objective, batch_size=24)
    timesteps = torch.cat([sampler.draw(step).timesteps_BN[:, 0] for step in range(400)])
    # Above 950, a logit-normal has 0.0016 of its samples; 9,600 draws, four standard deviations are 0.006.
    assert abs(float((timesteps >= 950).float().mean()) - (0.4 * 0.05 + 0.6 * 0.0016)) < 0.006


def test_uniform_timesteps_have_no_share_to_mix_in() -> None:
    with pytest.raises(ValueError, match="uniform_share: is for timesteps: logit_normal"):
        ObjectiveRecipe(uniform_share=0.5)


def test_captions_are_dropped_at_the_recipes_rate() -> None:
    sampler = _sampler("sft", objective=ObjectiveRecipe(caption_dropout=0.1))
    drops = torch.cat([sampler.draw(step).drops_caption_B for step in range(250)])
    assert abs(float(drops.float().mean()) - 0.1) < 0.027


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("sft", {"num_scenes": 4}, "num_scenes: 4, but the stories have 3 scenes"),
        ("pretrain", {"story_range": (0, 2), "batch_size": 1}, "2 stories cannot give 3 different ones"),
        ("sft", {"batch_size": 25}, "batch_size: 25 is more than the 24 samples"),
    ],
)
def test_too_few_stories_are_refused(stage: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _sampler(stage, **changes)


@pytest.mark.parametrize("stage", ["base", "pretrain", "sft"])
def test_every_batch_has_one_size_and_an_epoch_repeats_no_sample(stage: str) -> None:
    buckets = [place % 3 % 2 for place in range(34)]
    sampler = _sampler(stage, buckets=buckets, batch_size=4)
    # Stories 10 to 33: 16 of size 0 and 8 of size 1; in base each gives three samples.
    num_batches = 6 * (3 if stage == "base" else 1)
    seen = []
    for step in range(num_batches):
        draw = sampler.draw(step)
        assert draw.epoch == 0
        assert len({buckets[story] for story in draw.stories_BN.flatten().tolist()}) == 1
        seen += [(row[0], scenes[0]) for row, scenes in zip(*map(torch.Tensor.tolist, draw[:2]), strict=True)]
    assert sampler.draw(num_batches).epoch == 1
    assert len({story for story, _ in seen}) == 24
    assert len(set(seen)) == len(seen)
    again = _sampler(stage, buckets=buckets, batch_size=4).draw(num_batches - 1)
    assert torch.equal(again.stories_BN, sampler.draw(num_batches - 1).stories_BN)


def test_sizes_take_turns_at_random_and_one_too_rare_for_a_batch_is_named() -> None:
    sampler = _sampler("sft", buckets=[place % 2 for place in range(34)], batch_size=2)
    order = [int(sampler.draw(step).stories_BN[0, 0]) % 2 for step in range(12)]
    assert sorted(order) == [0] * 6 + [1] * 6
    assert order not in ([0] * 6 + [1] * 6, [1] * 6 + [0] * 6)
    with pytest.raises(DatasetError, match=r"size 1 .* has 1 sample, and a batch takes 8 of one size"):
        _sampler("sft", buckets=[int(place == 33) for place in range(34)])
