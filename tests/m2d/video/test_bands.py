"""Bands are one PNG picture, whoever reads it, whatever they were taken from."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2d.video.bands import join_bands, make_band, read_bands

WIDTH = 7


def pixels(height: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, WIDTH, 3), dtype=np.uint8)


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture)


@given(heights=st.lists(st.integers(1, 40), min_size=1, max_size=6), level=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_bands_below_each_other_are_the_whole_picture(heights: list[int], level: int) -> None:
    parts = [pixels(height, seed=index) for index, height in enumerate(heights)]
    parts.append(np.full((3, WIDTH, 3), level, np.uint8))
    png = join_bands([make_band(part) for part in parts], width=WIDTH)
    assert np.array_equal(opened(png), np.concatenate(parts))


def test_its_data_is_one_stream_with_a_true_checksum() -> None:
    """Readers differ in whether they check it; zlib does."""
    png = join_bands([make_band(pixels(30_000, seed=1)), make_band(pixels(9))], width=WIDTH)
    data, at = b"", 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4])
        data += png[at + 8 : at + 8 + size] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    assert len(zlib.decompress(data)) == 30_009 * (1 + 3 * WIDTH)


def test_a_band_that_is_read_back_stands_in_another_picture() -> None:
    one, two = pixels(5), pixels(8, seed=2)
    png = join_bands([make_band(one, key="one"), make_band(two, key="two"), make_band(one)], width=WIDTH)
    known = read_bands(png)
    assert sorted(known) == ["one", "two"]
    other = join_bands([known["two"], make_band(one), known["one"]], width=WIDTH)
    assert np.array_equal(opened(other), np.concatenate([two, one, one]))


def plain_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(5)).save(file, "PNG")
    return file.getvalue()


MADE = join_bands([make_band(pixels(5), key="one")], width=WIDTH)


@pytest.mark.parametrize(
    "data", [b"", b"text", plain_png(), MADE[:40], MADE[:-30], MADE.replace(b"[[", b"[{")]
)
def test_what_was_not_made_here_has_no_bands(data: bytes) -> None:
    assert read_bands(data) == {}
