"""Scenes join frame by frame as stated, and a colour jump is measured and corrected, not invented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2d.joins import CUT, Join
from m2d.video.joining import LEAST_GAIN, MOST_SHIFT, colour_jump, colour_map, recolour
from tests.m2d.video.grown_films import join_scenes

CONTINUE = Join(kind="continue")
HEIGHT, WIDTH = 24, 36


def crossfade(num_frames: int) -> Join:
    return Join(kind="crossfade", num_frames=num_frames)


def match(scene_PHWC: np.ndarray, reference_PHWC: np.ndarray) -> np.ndarray:
    return recolour(scene_PHWC, colour_map(scene_PHWC, reference_PHWC))


def noise(num_frames: int, *, seed: int, height: int = 2, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def even(*levels: int) -> np.ndarray:
    """One grey frame per level."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 2, 2, 3))


def stage(*, actor_x: int, num_frames: int = 3, seed: int = 0, actor: int = 6) -> np.ndarray:
    """A sky that darkens downwards, a floor, a little grain, and somebody who walks."""
    rng = np.random.default_rng(seed)
    sky_HW1 = np.linspace(210, 150, HEIGHT)[:, None, None] * np.ones((1, WIDTH, 1))
    picture_HWC = sky_HW1 * np.array([0.7, 0.85, 1.0])
    picture_HWC[18:] = (110, 90, 60)
    frames_PHWC = picture_HWC + rng.normal(0, 0.5, (num_frames, HEIGHT, WIDTH, 3))
    for frame in range(num_frames):
        frames_PHWC[frame, 8:20, actor_x + frame : actor_x + frame + actor] = (200, 40, 50)
    return np.clip(np.rint(frames_PHWC), 0, 255).astype(np.uint8)


def tinted(frames_PHWC: np.ndarray, *, gain: float, shift: tuple[float, float, float]) -> np.ndarray:
    return np.clip(np.rint(frames_PHWC * gain + np.array(shift)), 0, 255).astype(np.uint8)


def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(before.astype(int) - after)


@st.composite
def films(draw: st.DrawFn) -> tuple[list[np.ndarray], list[Join]]:
    """Scenes of noise with joins that leave at least one frame of each unblended."""
    overlaps = [0, *draw(st.lists(st.integers(0, 5), max_size=5)), 0]
    scenes = [
        noise(overlaps[index] + overlaps[index + 1] + draw(st.integers(1, 4)), seed=index)
        for index in range(len(overlaps) - 1)
    ]
    joins = [
        crossfade(overlap) if overlap else draw(st.sampled_from([CUT, CONTINUE])) for overlap in overlaps
    ]
    return scenes, [CUT, *joins[1:-1]]


@given(films())
def test_every_frame_of_the_film_is_a_scenes_own_or_the_stated_blend(
    film: tuple[list[np.ndarray], list[Join]],
) -> None:
    scenes, joins = film
    shown = join_scenes(scenes, joins)
    overlaps = [join.num_frames for join in joins]
    assert sum(map(len, shown)) == sum(map(len, scenes)) - sum(overlaps)
    for index, (frames_PHWC, overlap) in enumerate(zip(scenes, overlaps, strict=True)):
        own = shown[index][overlap:]
        assert len(own)
        assert np.array_equal(own, frames_PHWC[overlap : overlap + len(own)])
        for place in range(overlap):
            before = scenes[index - 1][len(scenes[index - 1]) - overlap + place].astype(float)
            weight = (place + 1) / (overlap + 1)
            exact = before * (1 - weight) + frames_PHWC[place] * weight
            # Half a level is what rounding may take; the rest is this line's own float.
            assert np.abs(shown[index][place] - exact).max() <= 0.5 + 1e-9


def test_crossfade_of_three_frames_takes_quarters_and_repeats_no_end() -> None:
    first, second = join_scenes([even(10, 0, 0, 0), even(200, 200, 200, 90)], [CUT, crossfade(3)])
    assert first[:, 0, 0, 0].tolist() == [10]
    assert second[:, 0, 0, 0].tolist() == [50, 100, 150, 90]


def test_a_half_level_is_rounded_upwards() -> None:
    assert join_scenes([even(0, 4), even(5, 0)], [CUT, crossfade(1)])[1][0, 0, 0, 0] == 5
    assert join_scenes([even(0, 5), even(4, 0)], [CUT, crossfade(1)])[1][0, 0, 0, 0] == 5


@pytest.mark.parametrize("join", [CUT, CONTINUE])
def test_cut_and_continue_leave_the_given_frames(join: Join) -> None:
    scenes = [noise(3, seed=0), noise(2, seed=1)]
    shown = join_scenes(scenes, [CUT, join])
    assert all(np.array_equal(one, other) for one, other in zip(shown, scenes, strict=True))


def test_scenes_are_not_changed_by_joining_them() -> None:
    scenes = [noise(5, seed=0), noise(5, seed=1)]
    copies = [frames_PHWC.copy() for frames_PHWC in scenes]
    join_scenes(scenes, [CUT, crossfade(4)])
    assert all(np.array_equal(one, other) for one, other in zip(scenes, copies, strict=True))


@given(st.integers(0, 255), st.integers(0, 255))
def test_jump_between_even_frames_is_the_difference_of_their_levels(before: int, after: int) -> None:
    assert colour_jump(even(before), even(after)) == pytest.approx(abs(after - before))


def test_jump_is_taken_at_the_boundary_only() -> None:
    assert colour_jump(even(0, 255, 7), even(9, 255, 0)) == pytest.approx(2)


def test_movement_alone_is_no_jump_and_somebody_new_counts_by_area() -> None:
    flat = np.full((1, 10, 10, 3), 100, np.uint8)
    left, right = flat.copy(), flat.copy()
    left[:, :5, :2], right[:, 5:, 8:] = 200, 200
    assert colour_jump(left, right) == pytest.approx(0)
    assert colour_jump(flat, right) == pytest.approx(100 * 10 / 100)


frames = st.integers(0, 1000).map(lambda seed: noise(1, seed=seed))


@given(frames, frames, frames)
def test_jump_is_a_distance(one: np.ndarray, other: np.ndarray, third: np.ndarray) -> None:
    assert colour_jump(one, one) == 0
    assert colour_jump(one, other) == pytest.approx(colour_jump(other, one))
    assert colour_jump(one, third) <= colour_jump(one, other) + colour_jump(other, third) + 1e-9


@given(frames, frames)
def test_jump_is_the_mean_difference_of_the_sorted_pixels(one: np.ndarray, other: np.ndarray) -> None:
    sorted_one, sorted_other = (np.sort(each.reshape(-1, 3), axis=0).astype(float) for each in (one, other))
    assert colour_jump(one, other) == pytest.approx(np.abs(sorted_one - sorted_other).mean())


@pytest.mark.parametrize(
    ("gain", "shift"),
    [
        (1.0, (14.0, -10.0, 6.0)),
        (0.75, (0.0, 0.0, 0.0)),
        (0.85, (6.0, -4.0, -12.0)),
        (1.15, (-20.0, 0.0, 0.0)),
    ],
)
def test_tinted_scene_is_taken_back_although_somebody_moved(
    gain: float, shift: tuple[float, float, float]
) -> None:
    reference, scene = stage(actor_x=2, seed=1), stage(actor_x=20, seed=2, actor=9)
    wrong = tinted(scene, gain=gain, shift=shift)
    matched = match(wrong, reference)
    assert colour_jump(reference, wrong) > 8
    # Somebody is wider now: that much of the jump is content, and stays.
    assert colour_jump(reference, matched) < colour_jump(reference, scene) + 1
    # The levels of the tinted frames are whole: taking 0.75 of it back leaves about one.
    assert change(matched, scene).mean() < 1


def test_tinted_scene_at_another_place_of_the_picture_comes_close() -> None:
    reference, scene = stage(actor_x=2, seed=1), stage(actor_x=20, seed=2)[:, :, ::-1][:, ::-1]
    wrong = tinted(scene, gain=0.8, shift=(10.0, 0.0, -10.0))
    assert colour_jump(reference, match(wrong, reference)) < 0.1 * colour_jump(reference, wrong)


@pytest.mark.parametrize("actor", [0, 6, 12])
def test_scene_without_a_jump_changes_by_a_level_at_most(actor: int) -> None:
    reference, scene = stage(actor_x=2, seed=1), stage(actor_x=18, seed=2, actor=actor)
    assert change(match(scene, reference), scene).max() <= 1


def test_grain_on_an_even_wall_is_not_taken_for_contrast() -> None:
    wall = [np.random.default_rng(seed).normal(120, 1, (1, 20, 20, 3)).astype(np.uint8) for seed in (1, 2)]
    later = np.concatenate([wall[1], np.full_like(wall[1], 200)])
    assert change(match(later, wall[0])[1], later[1]).max() <= 2


def test_scene_that_opens_on_one_even_colour_keeps_its_contrast() -> None:
    later = np.concatenate([even(90), even(90)])
    later[1, 0] = 150
    matched = match(later, stage(actor_x=2)[:, :2, :2])
    assert set(np.unique(matched[1, 0].astype(int) - matched[1, 1])) == {60}


def test_every_frame_gets_the_line_of_the_first() -> None:
    reference = stage(actor_x=2)
    wrong = tinted(stage(actor_x=2, num_frames=6), gain=0.8, shift=(9.0, 0.0, 0.0))
    matched = match(wrong, reference)
    assert matched.shape == wrong.shape
    assert matched.dtype == np.uint8
    for level in np.unique(wrong[..., 0]):
        assert len(np.unique(matched[..., 0][wrong[..., 0] == level])) == 1


def test_correction_keeps_within_its_limits() -> None:
    night, day = even(20), even(230)
    assert match(night, day).max() == 20 + MOST_SHIFT
    ramp = np.broadcast_to(np.arange(0, 240, dtype=np.uint8)[None, None, :, None], (1, 4, 240, 3))
    flattened = match(ramp, (ramp * 0.3 + 80).astype(np.uint8))
    assert float(np.ptp(flattened)) == pytest.approx(239 * LEAST_GAIN, abs=2)


@settings(max_examples=60)
@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0.3, 2.5), st.integers(-120, 120))
def test_the_jump_never_grows(seed: int, other_seed: int, gain: float, shift: int) -> None:
    scene = tinted(noise(1, seed=seed, height=6, width=7), gain=gain, shift=(shift, -shift, shift / 2))
    reference = noise(1, seed=other_seed, height=6, width=7)
    matched = match(scene, reference)
    assert colour_jump(reference, matched) <= colour_jump(reference, scene) + 1e-9


def test_a_crossfades_jump_is_its_largest_step_as_the_film_shows_it() -> None:
    before, after = np.repeat(even(10), 4, axis=0), np.repeat(even(50), 4, axis=0)
    fade = Join(kind="crossfade", num_frames=3)
    shown = np.concatenate(join_scenes([before, after], [CUT, fade]))
    steps = [colour_jump(shown[:index], shown[index:]) for index in range(1, len(shown))]
    assert colour_jump(before, after, fade) == pytest.approx(max(steps)) == pytest.approx(10)
    # Frames that the film shows apart from each other do not count.
    assert colour_jump(before, after) == pytest.approx(40)


def test_the_second_frame_of_a_scene_that_continues_counts_because_the_first_is_given() -> None:
    before, after = np.full((1, 4, 4, 3), 90, np.uint8), np.full((3, 4, 4, 3), 90, np.uint8)
    after[1:] = 140
    assert colour_jump(before, after) == 0
    assert colour_jump(before, after, CONTINUE) == pytest.approx(50)
    assert colour_jump(before, after[:1], CONTINUE) == 0
