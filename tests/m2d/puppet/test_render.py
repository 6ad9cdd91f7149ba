from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor

from m2d.puppet import render
from m2d.puppet.puppets import MARKS_X, MAX_CUTOUTS, WALK, held_moments, puppet_cutouts
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.stage import paint_backdrops
from m2d.puppet.story import ACTOR_SIZE, HORIZON_Y, SUN_X, TREE_X, Actor, Scene, Story, sample_story
from m2d.puppet.vocabulary import ACTIONS, COLOURS, EYES, HATS, SETTINGS, SHAPES, TIMES
from tests.m2d.puppet.plain_stories import BACKDROP, CAST, changing_clips, plain_clip

SIDE, FRAMES = 48, 9
# Poses are held for two frames: the first frame of each.
POSES = [0, 1, 3, 5, 7]


def draw(*clips: Clip, height: int = SIDE, width: int = SIDE) -> Tensor:
    return render_clips(list(clips), num_frames=FRAMES, height=height, width=width)


def random_clips(count: int) -> list[Clip]:
    stories = [sample_story(seed=11, index=index, num_scenes=1) for index in range(count)]
    return [Clip(story, story.scenes[0]) for story in stories]


def body(clip: Clip) -> Tensor:
    """Where Actor1 is above the floor, without its shadow: bool (P, H, W)."""
    empty = paint_backdrops([clip.story.backdrop], height=SIDE, width=SIDE)
    differs = (draw(clip)[0] - empty).abs().amax(1) > 0.05
    differs[:, int(0.91 * SIDE) :] = False
    return differs


def centres(mask_PHW: Tensor, axis: str) -> Tensor:
    """Mean column ("x") or row ("y") of a mask, frame by frame, as a fraction of the side: (P,)."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    weights = mask_PHW.float().sum(1 if axis == "x" else 2)
    return (weights * places).sum(1) / weights.sum(1)


def test_a_scene_of_a_changing_story_is_drawn_on_its_own_stage() -> None:
    clips = changing_clips()
    park, beach, again = draw(*clips)
    still = [plain_clip("waves"), plain_clip("waves", setting=3, time=2, tree_x=0.8, sun_x=0.7)]
    expected_park, expected_beach = draw(*still)
    assert (park - expected_park).abs().max() <= 2e-5
    assert (beach - expected_beach).abs().max() <= 2e-5
    assert (again - park).abs().max() <= 2e-5


def test_drawing_twice_gives_the_same_pixels() -> None:
    clips = random_clips(4)
    assert torch.equal(draw(*clips), draw(*clips))


def test_a_clip_looks_the_same_alone_and_among_others() -> None:
    clips = random_clips(12)
    together = draw(*clips)
    alone = torch.cat([draw(clip) for clip in clips])
    # Sines of one number and of many are rounded differently: one unit in a coordinate's last place.
    assert (together - alone).abs().max() <= 1e-5


def test_pixels_are_colours() -> None:
    frames_BPCHW = draw(*random_clips(8))
    assert frames_BPCHW.shape == (8, FRAMES, 3, SIDE, SIDE)
    assert float(frames_BPCHW.min()) >= 0.0
    assert float(frames_BPCHW.max()) <= 1.0


def test_an_empty_stage_is_its_backdrop() -> None:
    clip = plain_clip(None, None)
    empty_BCHW = paint_backdrops([clip.story.backdrop], height=SIDE, width=SIDE)
    assert torch.equal(draw(clip)[0], empty_BCHW.expand(FRAMES, -1, -1, -1))


@pytest.mark.parametrize(("mark", "others_half"), [(0, slice(SIDE * 2 // 3, None)), (1, slice(SIDE // 3))])
def test_an_absent_actor_leaves_its_side_of_the_stage_untouched(mark: int, others_half: slice) -> None:
    alone = plain_clip("waves", None) if mark == 0 else plain_clip(None, "waves")
    empty_BCHW = paint_backdrops([alone.story.backdrop], height=SIDE, width=SIDE)
    frames_PCHW = draw(alone)[0]
    assert torch.equal(frames_PCHW[..., others_half], empty_BCHW.expand(FRAMES, -1, -1, -1)[..., others_half])
    assert not torch.equal(frames_PCHW, empty_BCHW.expand(FRAMES, -1, -1, -1))


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "stands still"])
def test_each_pose_is_held_for_two_frames_after_the_first(action: str) -> None:
    """As a codec that halves the frames groups them: no latent frame has to hold two poses."""
    frames_PCHW = draw(plain_clip(action))[0]
    moves_P = [not torch.equal(frame, after) for frame, after in pairwise(frames_PCHW)]
    assert moves_P == [True, False] * 4


@pytest.mark.parametrize("mark", [0, 1])
@pytest.mark.parametrize(("action", "direction"), [("walks right", 1.0), ("walks left", -1.0)])
def test_walking_carries_an_actor_steadily_to_its_side(action: str, direction: float, mark: int) -> None:
    clip = plain_clip(action, None) if mark == 0 else plain_clip(None, action)
    x_P = centres(body(clip), "x")
    assert (direction * x_P[POSES].diff() > 0.5 / SIDE).all()
    assert float(x_P[-1] - x_P[0]) == pytest.approx(direction * 2 * WALK, abs=1.5 / SIDE)
    assert float(x_P.mean()) == pytest.approx(MARKS_X[mark], abs=1.5 / SIDE)


def test_jumping_goes_up_and_comes_down_on_the_same_spot() -> None:
    mask_PHW = body(plain_clip("jumps"))
    x_P, y_P = centres(mask_PHW, "x"), centres(mask_PHW, "y")
    assert float(y_P[0] - y_P.min()) > 0.1
    assert int(y_P[POSES].argmin()) == len(POSES) // 2
    assert float(y_P[-1]) == pytest.approx(float(y_P[0]), abs=1e-3)
    assert float(x_P.max() - x_P.min()) < 0.5 / SIDE


def test_bowing_leans_over_and_comes_back() -> None:
    mask_PHW = body(plain_clip("bows"))
    x_P, y_P = centres(mask_PHW, "x"), centres(mask_PHW, "y")
    assert int((x_P - x_P[0])[POSES].abs().argmax()) == len(POSES) // 2
    assert float(y_P[FRAMES // 2] - y_P[0]) > 0.5 / SIDE
    assert float(x_P[-1]) == pytest.approx(float(x_P[0]), abs=1e-3)


def test_waving_moves_an_arm_and_nothing_else() -> None:
    frames_PCHW = draw(plain_clip("waves"))[0]
    moves_HW = frames_PCHW.amax(0).sub(frames_PCHW.amin(0)).amax(0) > 0.05
    rows, columns = moves_HW.nonzero().unbind(1)
    assert len(rows) > 0
    assert float(columns.min()) / SIDE > MARKS_X[0], "the raised arm is on the actor's right"
    assert float(rows.max()) / SIDE < 0.85, "feet and shadow stand still"


def test_standing_still_is_still() -> None:
    frames_PCHW = draw(plain_clip("stands still"))[0]
    assert torch.equal(frames_PCHW, frames_PCHW[:1].expand_as(frames_PCHW))


@pytest.mark.parametrize("mark", [0, 1])
def test_no_actor_leaves_the_part_that_is_painted_for_it(mark: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the deepest bow of the tallest hat at the largest size."""
    looks = [
        Actor(shape=shape, colour=0, hat=hat) for shape, hat in product(range(len(SHAPES)), range(len(HATS)))
    ]
    clips = [
        plain_clip(
            *((action, None) if mark == 0 else (None, action)), cast=(look, look), actor_size=ACTOR_SIZE[1]
        )
        for action, look in product(ACTIONS, looks)
    ]
    painted = render_clips(clips, num_frames=5, height=64, width=64)
    monkeypatch.setattr(render, "_WINDOWS", ((0.0, 1.0), (0.0, 1.0)))
    whole = render_clips(clips, num_frames=5, height=64, width=64)
    assert torch.equal(painted, whole)


def brightest_column(frame_CHW: Tensor, other_CHW: Tensor) -> float:
    """Centre of where two pictures differ, as a fraction of the width."""
    weights_W = (frame_CHW - other_CHW).abs().amax(0).sum(0)
    places_W = (torch.arange(len(weights_W)) + 0.5) / len(weights_W)
    return float((weights_W * places_W).sum() / weights_W.sum())


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
@pytest.mark.parametrize("time", range(len(TIMES)))
@pytest.mark.parametrize("sun_x", [*SUN_X, 0.4])
def test_the_sun_stands_at_sun_x(sun_x: float, setting: int, time: int) -> None:
    with_sun, without = (
        paint_backdrops(
            [replace(BACKDROP, setting=setting, time=time, tree_x=9.0, sun_x=x)], height=96, width=96
        )
        for x in (sun_x, 9.0)
    )
    sky = slice(0, 35)  # above every ridge
    assert brightest_column(with_sun[0, :, sky], without[0, :, sky]) == pytest.approx(sun_x, abs=0.02)


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
@pytest.mark.parametrize("tree_x", [*TREE_X, 0.4])
def test_the_tree_stands_at_tree_x(tree_x: float, setting: int) -> None:
    with_tree, without = (
        paint_backdrops([replace(BACKDROP, setting=setting, tree_x=x)], height=96, width=192)
        for x in (tree_x, 9.0)
    )
    # Half a palm is enough: at the edge of the picture the other half is cut off.
    assert brightest_column(with_tree[0], without[0]) == pytest.approx(tree_x, abs=0.04)


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
@pytest.mark.parametrize("horizon_y", HORIZON_Y)
def test_the_ground_starts_at_the_horizon(horizon_y: float, setting: int) -> None:
    canvas_CHW = paint_backdrops(
        [replace(BACKDROP, setting=setting, horizon_y=horizon_y, tree_x=9.0, sun_x=9.0)], height=96, width=96
    )[0]
    rows_H = canvas_CHW[:, :, 0].diff(dim=1).abs().sum(0)
    # Hills end where the ground begins: the edge nearest above which nothing else is drawn.
    edges = (rows_H > 0.03).nonzero()[:, 0]
    assert (edges[-1] + 1) / 96 == pytest.approx(horizon_y, abs=1.6 / 96)


@pytest.mark.parametrize("size", ACTOR_SIZE)
def test_actor_size_scales_the_actor(size: float) -> None:
    def height(clip: Clip) -> int:
        return int(body(clip)[0].any(1).sum())

    mean = height(plain_clip())
    assert height(plain_clip(actor_size=size)) == pytest.approx(size * mean, abs=2)


def test_a_wider_stage_moves_the_marks_apart_and_keeps_the_actors_shape() -> None:
    clip = plain_clip("stands still", "stands still")
    square_PCHW = draw(clip, height=32, width=32)[0]
    wide_PCHW = draw(clip, height=32, width=64)[0]
    empty = paint_backdrops([BACKDROP], height=32, width=64)
    touched_W = (wide_PCHW - empty).abs().amax((0, 1, 2)) > 0.05
    assert touched_W[: int(MARKS_X[0] * 64)].any()
    assert touched_W[int(MARKS_X[1] * 64) :].any()
    assert not touched_W[30:34].any()
    assert square_PCHW.shape[-1] * 2 == wide_PCHW.shape[-1]


def every_changed_property() -> list[tuple[str, Callable[[], Clip]]]:
    def with_actor(**changes: int) -> Callable[[], Clip]:
        return lambda: plain_clip(cast=(replace(CAST[0], **changes), CAST[1]))

    def with_backdrop(**changes: float) -> Callable[[], Clip]:
        return lambda: plain_clip(**changes)

    changes: list[tuple[str, Callable[[], Clip]]] = []
    changes += [(f"setting {name}", with_backdrop(setting=k)) for k, name in enumerate(SETTINGS) if k]
    changes += [(f"time {name}", with_backdrop(time=k)) for k, name in enumerate(TIMES) if k]
    changes += [(f"shape {name}", with_actor(shape=k)) for k, name in enumerate(SHAPES) if k]
    changes += [(f"colour {name}", with_actor(colour=k)) for k, name in enumerate(COLOURS) if k]
    changes += [(name, with_actor(hat=k)) for k, name in enumerate(HATS) if k != CAST[0].hat]
    changes += [(f"eyes {name}", with_backdrop(eyes=k)) for k, name in enumerate(EYES) if k]
    changes += [(name, with_backdrop(**{name: 0.63})) for name in ("tree_x", "sun_x", "horizon_y")]
    changes.append(("actor_size", with_backdrop(actor_size=1.15)))
    changes += [(name, lambda name=name: plain_clip(name)) for name in ACTIONS if name != "stands still"]  # type: ignore[misc]  # the default binds the loop's name
    return changes


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in every_changed_property()])
def test_every_property_shows(make: Callable[[], Clip]) -> None:
    difference_PHW = (draw(plain_clip()) - draw(make()))[0].abs().amax(1)
    # Pupils of another size are the smallest difference: a few pixels of a 48 x 48 picture.
    assert int((difference_PHW > 0.05).sum()) >= 4 * FRAMES


def test_every_two_looks_of_an_actor_differ() -> None:
    looks = [
        Actor(shape=shape, colour=colour, hat=hat)
        for shape, colour, hat in product(range(len(SHAPES)), range(len(COLOURS)), range(len(HATS)))
    ]
    clips = [plain_clip(cast=(look, look)) for look in looks]
    frames_BX = render_clips(clips, num_frames=1, height=SIDE, width=SIDE).flatten(1)
    nearest_B = torch.cdist(frames_BX, frames_BX, p=1).fill_diagonal_(torch.inf).amin(1)
    assert float(nearest_B.min()) > 1.0


@pytest.mark.parametrize("action", range(len(ACTIONS)))
@pytest.mark.parametrize("num_frames", [1, 5])
def test_every_look_fits_the_room_for_cut_outs(action: int, num_frames: int) -> None:
    for shape, hat, eyes in product(range(len(SHAPES)), range(len(HATS)), range(len(EYES))):
        cutouts = puppet_cutouts(
            Actor(shape=shape, colour=0, hat=hat),
            action,
            mark=0,
            size=1.0,
            eyes=eyes,
            moments_P=held_moments(num_frames),
        )
        assert len(cutouts) <= MAX_CUTOUTS


def test_frames_show_the_moments_they_are_asked_for_in_any_order() -> None:
    clips = random_clips(3)
    whole = draw(*clips)
    moments_P = np.array([0.75, 0.0, 0.75, 0.5])
    frames = render_clips(clips, num_frames=4, height=SIDE, width=SIDE, moments_P=moments_P)
    assert torch.equal(frames, whole[:, [5, 0, 5, 3]])


def test_scenes_of_different_stories_can_be_drawn_together() -> None:
    story = sample_story(seed=1, index=0, num_scenes=2)
    mixed = [Clip(story, story.scenes[1]), plain_clip("bows"), Clip(story, story.scenes[0])]
    frames = draw(*mixed)
    assert frames.shape[0] == 3
    assert not torch.equal(frames[0], frames[2]) or story.scenes[0] == story.scenes[1]


def test_a_story_is_drawn_from_its_own_cast() -> None:
    clip = plain_clip("stands still", "stands still")
    swapped = Clip(
        Story(backdrop=BACKDROP, cast=(CAST[1], CAST[0]), scenes=clip.story.scenes), Scene(actions=(4, 4))
    )
    red = torch.tensor([0.88, 0.20, 0.18])[:, None, None]

    def red_column(frames_PCHW: Tensor) -> float:
        is_red_HW = (frames_PCHW[0] - red).abs().amax(0) < 0.12
        return float(is_red_HW.nonzero()[:, 1].float().mean()) / SIDE

    assert red_column(draw(clip)[0]) == pytest.approx(MARKS_X[0], abs=0.05)
    assert red_column(draw(swapped)[0]) == pytest.approx(MARKS_X[1], abs=0.05)
