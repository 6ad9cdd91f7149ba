"""Gradual transitions are told from movement and from light that changes."""

from __future__ import annotations

import numpy as np
import pytest

from m2d.curation.dissolves import Transition, find_dissolves, spans

SIDE, FPS = 32, 24
DRAW = np.random.default_rng(4)
FIRST, SECOND = (DRAW.integers(30, 220, (8, 8, 3)).repeat(4, 0).repeat(4, 1) for _ in range(2))


def film(*parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pictures = np.concatenate(parts)
    return pictures.reshape(len(pictures), -1).astype(np.uint8), np.arange(len(pictures)) / FPS


def still(picture: np.ndarray, count: int = 30) -> np.ndarray:
    noise = np.random.default_rng(count).integers(-1, 2, (count, *picture.shape))
    return np.clip(picture + noise, 0, 255)


def mixed(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    shares = (np.arange(count)[:, None, None, None] + 1) / (count + 1)
    return first * (1 - shares) + second * shares


@pytest.mark.parametrize("length", [8, 16, 30])
def test_a_dissolve_is_one_transition_at_its_place(length: int) -> None:
    (found,) = find_dissolves(*film(still(FIRST), mixed(FIRST, SECOND, length), still(SECOND)))
    assert abs(found.before - 29) <= 3
    assert abs(found.after - (30 + length)) <= 3


def test_a_fade_through_black_is_one_transition() -> None:
    black = np.zeros_like(FIRST)
    parts = (
        still(FIRST),
        mixed(FIRST, black, 9),
        still(black, 6) * 0,
        mixed(black, SECOND, 9),
        still(SECOND),
    )
    assert len(find_dissolves(*film(*parts))) == 1


def test_a_cut_movement_and_light_are_no_transition() -> None:
    moving = np.stack([np.roll(FIRST, step, axis=1) for step in range(30)])
    brighter = np.stack([FIRST * (0.8 + step / 150) for step in range(30)])
    assert find_dissolves(*film(still(FIRST), still(SECOND))) == []
    assert find_dissolves(*film(still(FIRST), moving, still(moving[-1]))) == []
    assert find_dissolves(*film(still(FIRST * 0.8), brighter, still(brighter[-1]))) == []


def test_pictures_of_a_transition_belong_to_no_shot() -> None:
    assert spans(100, [20], [Transition(49, 60)]) == [(0, 20), (20, 50), (60, 100)]
    assert spans(10, [], []) == [(0, 10)]
