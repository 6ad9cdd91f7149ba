"""Windows: every scene is made once, after its context, and no window is wider than the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.windows import Window, extension_windows, reroll_windows, story_windows

sizes = st.integers(1, 20)
capacities = st.integers(1, 6)


@given(sizes, capacities, st.sets(st.integers(0, 19)))
def test_a_story_makes_every_scene_once_and_from_finished_ones(
    num_scenes: int, capacity: int, alone: set[int]
) -> None:
    windows = story_windows(num_scenes, capacity=capacity, alone=alone)
    finished: list[int] = []
    for window in windows:
        assert len(window.scenes) <= capacity
        assert window.scenes == tuple(range(window.scenes[0], window.scenes[-1] + 1))
        assert set(window.context) <= set(finished)
        finished += window.targets
    assert finished == list(range(num_scenes))


@given(sizes, capacities, st.sets(st.integers(0, 19)))
def test_a_scene_that_continues_another_is_never_made_jointly_with_it(
    num_scenes: int, capacity: int, alone: set[int]
) -> None:
    for window in story_windows(num_scenes, capacity=capacity, alone=alone):
        assert all(scene - 1 not in window.targets for scene in alone if scene in window.targets)


@given(sizes, st.integers(0, 10), capacities, st.sampled_from([None, 0]))
def test_a_story_is_its_beginning_extended(
    num_scenes: int, num_new: int, capacity: int, anchor: int | None
) -> None:
    whole = story_windows(num_scenes + num_new, capacity=capacity, anchor=anchor)
    if num_scenes < capacity:
        return
    grown = story_windows(num_scenes, capacity=capacity, anchor=anchor)
    assert whole == (*grown, *extension_windows(num_scenes, num_new, capacity=capacity, anchor=anchor))


@given(sizes, capacities, st.integers(0, 19))
def test_an_anchor_takes_the_place_of_one_scene_and_never_of_the_last(
    num_scenes: int, capacity: int, anchor: int
) -> None:
    plain = extension_windows(num_scenes, 3, capacity=capacity)
    for recent, window in zip(
        plain, extension_windows(num_scenes, 3, capacity=capacity, anchor=anchor), strict=True
    ):
        assert window.targets == recent.targets
        assert len(window.scenes) == len(recent.scenes)
        assert window.scenes[1:] == recent.scenes[1:]
        is_possible = anchor < recent.scenes[0] and capacity > 2
        assert window.scenes[0] == (anchor if is_possible else recent.scenes[0])
        assert capacity == 1 or recent.targets[0] - 1 in window.scenes


def test_an_appended_scene_sees_the_last_ones_as_context() -> None:
    first, second = extension_windows(5, 2, capacity=3)
    assert (first.scenes, first.targets, first.context) == ((3, 4, 5), (5,), (3, 4))
    assert (second.scenes, second.targets) == ((4, 5, 6), (6,))


@pytest.mark.parametrize(
    ("num_scenes", "chosen", "expected"),
    [
        (3, [1], [((0, 1, 2), (1,))]),
        (3, [0], [((0, 1, 2), (0,))]),
        (3, [2, 0], [((0, 1, 2), (0, 2))]),
        (9, [4], [((3, 4, 5), (4,))]),
        (9, [8], [((6, 7, 8), (8,))]),
        (9, [0, 8], [((0, 1, 2), (0,)), ((6, 7, 8), (8,))]),
        (2, [1], [((0, 1), (1,))]),
    ],
)
def test_a_scene_is_made_anew_among_its_neighbours(
    num_scenes: int, chosen: list[int], expected: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    windows = reroll_windows(num_scenes, chosen, capacity=3)
    assert [(window.scenes, window.targets) for window in windows] == expected


def test_the_last_scene_is_made_anew_from_what_it_was_appended_to() -> None:
    (appended,) = extension_windows(8, 1, capacity=3, anchor=0)
    assert reroll_windows(9, [8], capacity=3, anchor=0) == (appended,)
    assert [window.scenes for window in reroll_windows(9, [4, 8], capacity=3, anchor=0)] == [
        (3, 4, 5),
        (0, 7, 8),
    ]


@pytest.mark.parametrize("chosen", [[], [3], [-1]])
def test_only_scenes_of_the_film_can_be_made_anew(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match=r"chosen: .* scenes 0 to 2"):
        reroll_windows(3, chosen, capacity=3)


@pytest.mark.parametrize(
    ("scenes", "targets", "message"),
    [
        ((), (), "scenes: "),
        ((0, 2, 1), (1,), "scenes: "),
        ((0, 1), (), "targets: "),
        ((0, 1), (2,), "targets .2,. are not all among"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(
    scenes: tuple[int, ...], targets: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Window(scenes=scenes, targets=targets)
