from __future__ import annotations

import torch

from m2d.puppet.clips import actor_boxes, draw_clips, render_batch
from m2d.puppet.puppets import MARKS_X


def test_the_same_step_draws_the_same_clips_and_no_other_step_does() -> None:
    drawn = [draw_clips(seed=1, step=step, count=8) for step in (0, 1, 2)]
    assert draw_clips(seed=1, step=1, count=8) == drawn[1]
    assert len({clip for clips in drawn for clip in clips}) == 24
    assert not set(drawn[0]) & set(draw_clips(seed=990_001, step=0, count=8))


def test_the_mask_covers_actors_and_nothing_else() -> None:
    clips = draw_clips(seed=2, step=0, count=6)
    batch = render_batch(clips, num_frames=3, height=32, width=32)
    assert batch.actors_BP1HW.shape == (6, 3, 1, 32, 32)
    assert set(batch.actors_BP1HW.unique().tolist()) == {0.0, 1.0}
    for clip, actors_P1HW in zip(clips, batch.actors_BP1HW, strict=True):
        for mark, action in enumerate(clip.scene.actions):
            column = round(MARKS_X[mark] * 32)
            assert bool(actors_P1HW[..., column - 3 : column + 3].any()) == (action is not None)
        assert not actors_P1HW[..., :4, :].any(), "the sky is empty"


def test_a_box_is_the_smallest_rectangle_around_an_actor() -> None:
    actors_BP1HW = torch.zeros(1, 2, 1, 8, 8)
    actors_BP1HW[0, 0, 0, 2, 1] = actors_BP1HW[0, 0, 0, 5, 3] = 1
    actors_BP1HW[0, 1, 0, 7, 6] = 1
    boxes = actor_boxes(actors_BP1HW)
    expected = torch.zeros_like(actors_BP1HW)
    expected[0, 0, 0, 2:6, 1:4] = 1
    expected[0, 1, 0, 7, 6] = 1
    assert torch.equal(boxes, expected)


def test_actors_on_both_sides_have_boxes_of_their_own() -> None:
    actors_BP1HW = torch.zeros(1, 1, 1, 4, 8)
    actors_BP1HW[..., 0, 1] = actors_BP1HW[..., 3, 6] = 1
    assert int(actor_boxes(actors_BP1HW).sum()) == 2


def test_an_empty_stage_has_no_box() -> None:
    assert not actor_boxes(torch.zeros(1, 2, 1, 4, 4)).any()
