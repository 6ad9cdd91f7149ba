"""A film's picture fills the model's size: upright, without bars, its middle kept, nothing distorted."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.video.crop_resize import Cover, Turn, cover, turn_of

ONE = 1 << 16
QUARTER = (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30)

turns = st.builds(Turn, is_transposed=st.booleans(), is_mirrored_x=st.booleans(), is_mirrored_y=st.booleans())
sizes = st.integers(1, 300)


def fit(
    width: int,
    height: int,
    *,
    to: tuple[int, int] = (12, 8),
    pixel_aspect: Fraction = Fraction(1),
    turn: Turn | None = None,
) -> Cover:
    return cover(
        width=width,
        height=height,
        pixel_aspect=pixel_aspect,
        turn=turn or Turn(),
        target_width=to[0],
        target_height=to[1],
    )


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@given(sizes, sizes, st.fractions("1/9", 9), turns, st.integers(1, 40), st.integers(1, 40))
def test_what_is_kept_has_the_targets_proportion_and_lies_in_the_middle(
    width: int, height: int, pixel_aspect: Fraction, turn: Turn, to_width: int, to_height: int
) -> None:
    shape = fit(width, height, to=(to_width, to_height), pixel_aspect=pixel_aspect, turn=turn)
    kept_width, kept_height = shape.width - 2 * shape.crop_x, shape.height - 2 * shape.crop_y
    aspect = float(1 / pixel_aspect if turn.is_transposed else pixel_aspect)
    assert kept_width * aspect / kept_height == pytest.approx(to_width / to_height)
    assert min(shape.crop_x, shape.crop_y) == 0
    assert shape.apply(picture(width, height)).shape == (to_height, to_width, 3)


def test_picture_that_fits_comes_out_as_it_is() -> None:
    shape = fit(12, 8)
    assert np.array_equal(shape.apply(picture(12, 8)), picture(12, 8))
    assert shape.notes() == []


def test_what_stands_out_is_cut_off_and_no_bar_is_added() -> None:
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 4:16] = picture(12, 8)
    shape = fit(20, 8)
    assert np.array_equal(shape.apply(wide), picture(12, 8))
    assert shape.notes() == ["cropped 4 pixels left and right"]
    high = np.zeros((14, 12, 3), np.uint8)
    high[3:11] = picture(12, 8)
    shape = fit(12, 14)
    assert np.array_equal(shape.apply(high), picture(12, 8))
    assert shape.notes() == ["cropped 3 pixels at the top and at the bottom"]


def test_fine_patterns_become_even_when_they_are_scaled_down() -> None:
    stripes = np.zeros((80, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    small = fit(120, 80).apply(stripes)
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() <= 2
    assert fit(120, 80).notes() == ["scaled from 120x80 to 12x8 pixels"]


def test_pixels_that_are_not_square_are_stretched() -> None:
    assert fit(6, 8, pixel_aspect=Fraction(2)).notes() == ["scaled from 6x8 to 12x8 pixels"]
    assert fit(12, 8, pixel_aspect=Fraction(2)).crop_x == 3


@pytest.mark.parametrize(
    ("matrix", "quarters", "words"),
    [
        (QUARTER, 1, "turned by 90 degrees anticlockwise, as its metadata says"),
        (
            (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30),
            2,
            "turned by 180 degrees anticlockwise, as its metadata says",
        ),
        (
            (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30),
            3,
            "turned by 270 degrees anticlockwise, as its metadata says",
        ),
        ((0, 65535, 0, -65535, 0, 0, 0, 0, 1 << 30), 3, "turned by 270 degrees"),
    ],
)
def test_quarter_turns_follow_the_display_matrix(matrix: tuple[int, ...], quarters: int, words: str) -> None:
    turn = turn_of(matrix)
    assert turn is not None
    assert np.array_equal(turn.apply(picture(5, 3)), np.rot90(picture(5, 3), quarters))
    assert fit(5, 3, turn=turn).notes()[0].startswith(words)


def test_mirrored_films_are_mirrored_back() -> None:
    turn = turn_of((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30))
    assert turn is not None
    assert np.array_equal(turn.apply(picture(5, 3)), picture(5, 3)[:, ::-1])
    assert fit(12, 8, turn=turn).notes() == ["mirrored, as its metadata says"]
    both = turn_of((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30))
    assert both is not None
    assert np.array_equal(both.apply(picture(5, 3)), picture(5, 3).transpose(1, 0, 2))
    assert fit(8, 12, turn=both).notes() == ["mirrored and turned, as its metadata says"]


def test_no_matrix_is_no_turn_and_slanted_ones_are_none() -> None:
    assert turn_of(()) == Turn()
    assert turn_of((46340, -46340, 0, 46340, 46340, 0, 0, 0, 1 << 30)) is None
    assert turn_of((2 * ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)) is None


@pytest.mark.parametrize("degrees", [1, 5, 25, 29, 44, 61, 89, 91, 155, 181])
def test_a_turn_by_other_angles_is_none(degrees: int) -> None:
    sine, cosine = (round(f(math.radians(degrees)) * ONE) for f in (math.sin, math.cos))
    assert turn_of((cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)) is None
