"""Scenes begin where the picture cuts, or at the frames nearest to the told times."""

from __future__ import annotations

import re
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.errors import InputError, Remedy
from m2d.video.cuts import ShownPicture, find_cuts, place_cuts, without_flashes
from m2d.video.frame_times import nearest_frames


def shot(seed: int, *, num_frames: int, pan: int = 0) -> np.ndarray:
    """A place full of patches; the camera moves by `pan` pixels a frame; BGR PHWC with grain."""
    rng = np.random.default_rng(seed)
    place_HWC = np.kron(rng.integers(0, 256, (12, 120, 3)), np.ones((6, 6, 1)))
    frames = [place_HWC[:, pan * frame : pan * frame + 96] for frame in range(num_frames)]
    noisy_PHWC = np.stack(frames) + rng.normal(0, 4, (num_frames, 72, 96, 3))
    return np.clip(noisy_PHWC, 0, 255).astype(np.uint8)


def at_25(pictures_PHWC: np.ndarray) -> list[ShownPicture]:
    return shown(pictures_PHWC, np.arange(len(pictures_PHWC)) / 25)


def shown(pictures_PHWC: np.ndarray, times_s: np.ndarray) -> list[ShownPicture]:
    return [ShownPicture(*pair) for pair in zip(times_s.tolist(), pictures_PHWC, strict=True)]


def held(pictures_PHWC: np.ndarray, *, pictures: int, fps: int) -> tuple[list[ShownPicture], np.ndarray]:
    """Frames at `fps` of so many pictures per second, and the picture that each frame shows."""
    times_s = np.arange(len(pictures_PHWC) * fps // pictures) / fps
    numbers = np.floor(times_s * pictures + 1e-6).astype(int)
    return shown(pictures_PHWC[numbers], times_s), numbers


@pytest.mark.parametrize(("pictures", "fps"), [(8, 24), (12, 60), (8, 30), (10, 25), (24, 60)])
def test_a_picture_may_be_held_for_any_number_of_frames(pictures: int, fps: int) -> None:
    one_shot, _ = held(shot(1, num_frames=24, pan=9), pictures=pictures, fps=fps)
    assert find_cuts(one_shot) == []
    two = np.concatenate([shot(1, num_frames=12, pan=9), shot(2, num_frames=12, pan=9)])
    frames, numbers = held(two, pictures=pictures, fps=fps)
    assert find_cuts(frames) == [int(np.argmax(numbers == 12))]


def test_a_frozen_picture_is_no_cut_and_hides_none() -> None:
    moving = shot(1, num_frames=40, pan=6)
    frozen = np.concatenate([moving[:15], np.repeat(moving[15:16], 50, axis=0), moving[15:]])
    assert find_cuts(at_25(frozen)) == []
    assert find_cuts(at_25(np.concatenate([frozen, shot(2, num_frames=20)]))) == [90]


def test_cuts_are_found_where_the_rate_varies() -> None:
    rates = [30] * 60 + [4] * 12 + [60] * 120
    times_s = np.cumsum([0.0, *(1 / rate for rate in rates)])[:-1]
    parts = [shot(1, num_frames=60, pan=1), shot(2, num_frames=12, pan=9), shot(3, num_frames=120, pan=1)]
    assert find_cuts(shown(np.concatenate(parts), times_s)) == [60, 72]


def test_a_flash_returns_to_the_same_shot() -> None:
    flashed = shot(1, num_frames=50, pan=1)
    flashed[20:23] = 255 - (255 - flashed[20:23]) // 4
    assert find_cuts(at_25(flashed)) == []
    assert find_cuts(at_25(np.concatenate([flashed, shot(2, num_frames=20)]))) == [50]


def test_cuts_are_found_at_their_first_frames() -> None:
    film_PHWC = np.concatenate([shot(1, num_frames=30), shot(2, num_frames=20), shot(3, num_frames=41)])
    assert find_cuts(at_25(film_PHWC)) == [30, 50]


def test_a_moving_camera_is_no_cut() -> None:
    assert find_cuts(at_25(shot(1, num_frames=60, pan=5))) == []


def test_scenes_of_less_than_half_a_second_belong_to_a_neighbour() -> None:
    times_s = np.arange(100) / 25
    assert without_flashes([12, 13, 40, 45, 60, 99], times_s=times_s, end_s=4.0) == [13, 40, 60]
    assert without_flashes([40, 60], times_s=times_s / 10, end_s=0.4) == []


@pytest.mark.parametrize("num_frames", [0, 1, 2, 40])
def test_a_still_film_has_no_cut(num_frames: int) -> None:
    assert find_cuts(at_25(np.full((num_frames, 16, 16, 3), 90, np.uint8))) == []


@pytest.mark.parametrize("size", [(1, 64), (2, 200), (64, 2), (8, 8), (11, 11)])
def test_flat_and_narrow_pictures_have_their_cuts_too(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    shots = [np.repeat(rng.integers(0, 256, (1, *size, 3), dtype=np.uint8), 20, axis=0) for _ in range(2)]
    assert find_cuts(at_25(np.concatenate(shots))) == [20]


def test_the_way_to_find_cuts_is_told_when_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "m2d.video.shot_changes", None)
    complaint = "needs the package opencv-python-headless: pip install 'm2d[data]'"
    with pytest.raises(
        InputError, match=re.escape(complaint), check=lambda error: error.remedy is Remedy.GIVE_CUTS
    ):
        find_cuts(at_25(shot(1, num_frames=1)))


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=30),
    st.lists(st.floats(0.01, 20), max_size=4, unique=True).map(sorted),
)
def test_placed_cuts_divide_the_film_into_scenes_that_have_frames(
    steps_s: list[float], cuts_s: list[float]
) -> None:
    times_s = np.cumsum([0.0, *steps_s])
    try:
        places = place_cuts(cuts_s, times_s=times_s, end_s=float(times_s[-1]) + 0.04)
    except InputError:
        return
    assert all(0 < place < len(times_s) for place in places)
    assert all(before < after for before, after in pairwise(places))
    for cut_s, place in zip(cuts_s, places, strict=True):
        assert abs(times_s[place] - cut_s) == np.abs(times_s - cut_s).min()


@pytest.mark.parametrize("cut_s", [1.32, 1.333, 1.34])
def test_a_time_read_off_a_player_means_the_frame_nearest_to_it(cut_s: float) -> None:
    assert place_cuts([cut_s], times_s=np.arange(90) / 30, end_s=3.0) == [40]


def test_no_cut_is_one_scene() -> None:
    assert place_cuts([], times_s=np.arange(9) / 8, end_s=1.125) == []


@pytest.mark.parametrize(
    ("cuts_s", "complaint"),
    [
        ([0.0], "cuts: 0 is not after 0; give the seconds at which scenes begin, ascending, such as"),
        ([-1.5], "cuts: -1.5 is not after 0"),
        ([1.0, float("nan")], "cuts: nan is not a time"),
        ([float("inf")], "cuts: inf is not a time"),
        ([1.0, 1.0], "cuts: 1 is not after 1"),
        ([1.0, 0.5], "cuts: 0.5 is not after 1"),
        ([1.0, 3.0], "cuts: 3 is not in the film, which ends at 3.00 s; give seconds between 0 and that"),
        ([1e300], "cuts: 1e+300 is not in the film"),
        (
            [0.01],
            "cuts: 0.01 leaves the scene before it without a frame; the film shows a new",
        ),
        (
            [1.0, 1.02],
            "cuts: 1.02 leaves the scene before it without a frame; the film shows a new frame at 1.",
        ),
    ],
)
def test_cuts_that_the_film_does_not_have_are_refused(cuts_s: list[float], complaint: str) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        place_cuts(cuts_s, times_s=np.arange(24) / 8, end_s=3.0)


def test_of_two_frames_equally_near_the_earlier_is_taken() -> None:
    times_s = np.array([0.0, 1.0, 1.0, 2.0])
    wanted_s = np.array([-1.0, 0.5, 0.6, 1.0, 1.4, 9.0])
    assert nearest_frames(times_s, wanted_s).tolist() == [0, 0, 1, 1, 1, 3]


def test_still_pictures_that_follow_each_other_are_scenes() -> None:
    stills = [np.repeat(shot(seed, num_frames=1), 25, axis=0) for seed in range(4)]
    assert find_cuts(at_25(np.concatenate(stills))) == [25, 50, 75]


def test_a_scene_in_the_same_place_is_found_where_even_still_parts_are_new() -> None:
    rng = np.random.default_rng(4)
    place = shot(1, num_frames=1)[0].astype(int)
    # As a VAE decodes it: the same place in every scene, with a texture of its own.
    texture = rng.integers(2, 6, (12, 16, 3)).repeat(6, 0).repeat(6, 1)
    scenes = [place, place + texture]
    pictures = [scenes[number // 9].copy() for number in range(18)]
    for number, picture in enumerate(pictures):
        picture[30:50, 4 * (number % 9) :][:, :12] = (20, 40, 200)
    film = np.clip(np.stack(pictures), 0, 255).astype(np.uint8)
    frames, numbers = held(film, pictures=8, fps=24)
    assert find_cuts(frames) == [int(np.argmax(numbers == 9))]
    keyed = [frame._replace(is_key=number == 9) for frame, number in zip(frames, numbers, strict=True)]
    assert find_cuts(keyed) == []


def test_a_fade_in_held_pictures_is_no_cut() -> None:
    fading = shot(1, num_frames=16, pan=1).astype(float)
    fading[:8] *= np.linspace(0, 1, 8)[:, None, None, None]
    frames, _ = held(fading.astype(np.uint8), pictures=8, fps=24)
    assert find_cuts(frames) == []
