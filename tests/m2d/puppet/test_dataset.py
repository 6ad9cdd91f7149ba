from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from m2d.errors import DatasetError
from m2d.geometry import SceneGeometry
from m2d.puppet.dataset import PuppetStories, wardrobe_with
from m2d.puppet.labels import UNPROMPTED_RANGES, class_labels, unprompted_numbers
from m2d.puppet.story_scores import story_clips
from m2d.puppet.vocabulary import ACTORS, HATS
from m2d.recipe.cast import find_mentions

GEOMETRY = SceneGeometry(
    num_frames=5,
    height=32,
    width=32,
    num_latent_frames=2,
    latent_height=8,
    latent_width=8,
    tokens_per_frame=16,
)
STORIES = PuppetStories(num_stories=64, seed=1, geometry=GEOMETRY)


def test_a_story_has_frames_and_a_prompt_per_scene() -> None:
    story = STORIES.render(3)
    assert story.frames_NPCHW.shape == (3, 5, 3, 32, 32)
    assert story.frames_NPCHW.dtype == torch.float32
    assert -1.0 <= float(story.frames_NPCHW.min()) < float(story.frames_NPCHW.max()) <= 1.0
    assert story.prompts == STORIES.prompts(3)


def test_prompts_belong_to_the_scenes_that_are_rendered() -> None:
    for index in range(64):
        for prompt, scene in zip(STORIES.prompts(index), STORIES.story(index).scenes, strict=True):
            named = {mention.name for mention in find_mentions(prompt, dict.fromkeys(ACTORS, "x"))}
            shown = {name for name, action in zip(ACTORS, scene.actions, strict=True) if action is not None}
            assert named == shown


def test_a_story_is_the_same_alone_and_in_any_batch() -> None:
    indices = [40, 2, 17, 2]
    for index, story in zip(indices, STORIES.render_batch(indices), strict=True):
        alone = STORIES.render(index)
        # Sines of a single number and of many are rounded differently.
        assert (story.frames_NPCHW - alone.frames_NPCHW).abs().max() <= 2e-5
        assert story.prompts == alone.prompts


def test_batches_larger_than_what_is_drawn_at_once_keep_their_order() -> None:
    indices = list(range(30, 0, -1))
    rendered = STORIES.render_batch(indices)
    assert [story.prompts for story in rendered] == [STORIES.prompts(index) for index in indices]
    assert (rendered[-1].frames_NPCHW - STORIES.render(1).frames_NPCHW).abs().max() <= 2e-5


def test_the_digest_says_what_indices_render_to_and_nothing_else() -> None:
    more = replace(STORIES, num_stories=65)
    assert more.digest == STORIES.digest
    assert more.prompts(3) == STORIES.prompts(3)
    others = [
        replace(STORIES, seed=2),
        replace(STORIES, num_scenes=2),
        replace(STORIES, geometry=replace(GEOMETRY, height=64)),
        replace(STORIES, geometry=replace(GEOMETRY, num_frames=9)),
        replace(STORIES, changing=0.5),
        replace(STORIES, changing=0.25),
    ]
    assert len({STORIES.digest, *(other.digest for other in others)}) == 7


def test_a_collection_of_another_seed_shows_other_stories() -> None:
    held_out = replace(STORIES, seed=990_000)
    assert not {STORIES.story(index) for index in range(64)} & {held_out.story(index) for index in range(64)}


@pytest.mark.parametrize("index", [-1, 64])
def test_there_is_no_story_beyond_the_last(index: int) -> None:
    with pytest.raises(IndexError, match=f"story {index} of 64"):
        STORIES.render(index)


def test_shared_properties_are_the_size_and_eyes_that_every_scene_is_labelled_with() -> None:
    mixed = replace(STORIES, changing=0.5)
    shared_S2 = mixed.shared_properties()
    assert shared_S2.shape == (mixed.num_stories, 2)
    assert shared_S2[:, 1].unique().tolist() == [0, 1]
    for index in range(12):
        clips = story_clips([mixed.story(index)])
        sizes = unprompted_numbers(clips)[:, list(UNPROMPTED_RANGES).index("actor_size")]
        torch.testing.assert_close(sizes, shared_S2[index, 0].expand_as(sizes))
        assert set(class_labels(clips)["eyes"].tolist()) == {int(shared_S2[index, 1])}


def test_prompts_vary_in_wording_from_story_to_story() -> None:
    joints = [
        " and " in prompt or " while " in prompt for index in range(64) for prompt in STORIES.prompts(index)
    ]
    assert 0 < sum(joints) < len(joints)


def test_the_world_is_still_the_one_that_models_were_trained_on() -> None:
    """Whoever changes how the world looks, moves or is called must raise WORLD_VERSION and these figures."""
    assert STORIES.digest[:16] == "cdee85ab405f9c6c"
    assert STORIES.prompts(5) == (
        "Forest at noon. Actor1 (square blue body, wool cap) bends.",
        "Forest at noon. Actor1 (square blue body, wool cap) waves "
        "while Actor2 (round purple body, top hat) greets.",
        "Forest at noon. Actor1 (square blue body, wool cap) hops.",
    )
    frames_NPCHW = STORIES.render(5).frames_NPCHW
    # Means over 15,360 pixels; other processors round sines differently, in the seventh digit.
    assert float(frames_NPCHW.mean()) == pytest.approx(-0.0272261, abs=1e-6)
    assert float(frames_NPCHW.std()) == pytest.approx(0.5479468, abs=1e-6)


def test_another_wardrobe_changes_the_hat_it_replaces_and_nothing_else() -> None:
    wardrobe = tuple("crown" if hat == "party hat" else hat for hat in HATS)
    dressed = replace(STORIES, wardrobe=wardrobe)
    assert dressed.digest != STORIES.digest
    for index in range(16):
        story, before, after = STORIES.story(index), STORIES.render(index), dressed.render(index)
        assert after.prompts == before.prompts
        for number, scene in enumerate(story.scenes):
            wears_it = any(
                HATS[actor.hat] == "party hat"
                for actor, action in zip(story.cast, scene.actions, strict=True)
                if action is not None
            )
            is_same = torch.equal(after.frames_NPCHW[number], before.frames_NPCHW[number])
            assert is_same != wears_it


def test_stories_that_do_not_change_are_the_same_in_a_collection_where_others_do() -> None:
    mixed = replace(STORIES, changing=0.5)
    for index in range(24):
        is_same = mixed.story(index) == STORIES.story(index)
        before, after = STORIES.render(index), mixed.render(index)
        assert torch.equal(before.frames_NPCHW, after.frames_NPCHW) == is_same
        assert (before.prompts == after.prompts) == is_same
        assert torch.equal(before.frames_NPCHW[0], after.frames_NPCHW[0])
    assert 6 < sum(mixed.story(index) == STORIES.story(index) for index in range(24)) < 18


def test_a_hat_that_the_theatre_does_not_have_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"data\.hats: 'bonnet', 'halo' unknown; the theatre has no hat"):
        wardrobe_with({"bonnet": "crown", "top hat": "halo"})
