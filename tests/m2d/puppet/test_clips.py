from __future__ import annotations

import torch

from m2d.puppet.clips import PsnrMeter, actor_boxes, draw_clips, outline_bands, render_batch
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


def test_bands_of_outlines_are_on_actors_and_leave_their_insides_out() -> None:
    clips = draw_clips(seed=2, step=0, count=4)
    size = {"num_frames": 1, "height": 96, "width": 96}
    bands_BP1HW = outline_bands(clips, **size)
    actors_BP1HW = render_batch(clips, **size).actors_BP1HW
    assert set(bands_BP1HW.unique().tolist()) == {0.0, 1.0}
    near_BPHW = torch.nn.functional.max_pool2d(actors_BP1HW[:, :, 0], 3, stride=1, padding=1)
    assert bool((bands_BP1HW[:, :, 0] <= near_BPHW).all())
    shares = (bands_BP1HW * actors_BP1HW).sum((1, 2, 3, 4)) / actors_BP1HW.sum((1, 2, 3, 4))
    assert 0.1 < float(shares.min()) <= float(shares.max()) < 0.9


def test_the_outline_error_counts_pixels_of_the_bands_alone() -> None:
    frames_BPCHW = torch.zeros(1, 1, 3, 4, 4)
    decoded_BPCHW = frames_BPCHW.clone()
    decoded_BPCHW[..., 0] = 0.5
    bands_BP1HW = torch.zeros(1, 1, 1, 4, 4)
    bands_BP1HW[..., :2] = 1
    meter = PsnrMeter()
    meter.add(decoded_BPCHW, frames_BPCHW, torch.ones(1, 1, 1, 4, 4), bands_BP1HW)
    assert meter.read()["outline_error"] == 63.75
