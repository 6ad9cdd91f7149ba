"""Pictures as colours: what the file says, whatever its depth."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from m2d.recipe.images import open_image, rgb_of


def opened(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return open_image(file.getvalue(), "first.png")


def test_a_picture_of_16_bits_is_scaled_to_8() -> None:
    levels_HW = np.arange(256, dtype=np.uint16).reshape(4, 64)
    deep = opened(Image.fromarray(levels_HW * 257))
    assert deep.mode.startswith("I;16")
    expected_HWC = np.repeat(levels_HW[..., None].astype(np.uint8), 3, axis=2)
    assert np.array_equal(rgb_of(deep), expected_HWC)
    # To the nearest of 8 bits.
    near = opened(Image.fromarray(np.array([[128, 129, 65535 - 129]], np.uint16)))
    assert rgb_of(near)[0, :, 0].tolist() == [0, 1, 254]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_a_picture_of_8_bits_keeps_its_colours(mode: str) -> None:
    picture = Image.new("RGB", (2, 2), "white").convert(mode)
    assert rgb_of(opened(picture)).tolist() == [[[255] * 3] * 2] * 2


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_a_transparent_picture_lies_on_white(mode: str) -> None:
    picture = Image.new("LA", (2, 2), (0, 0))
    if mode == "P":
        picture = Image.new("P", (2, 2))
        picture.info["transparency"] = 0
    found = rgb_of(opened(picture.convert(mode)))
    assert found.tolist() == [[[255] * 3] * 2] * 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_of_unknown_range_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: Image.new(mode, (2, 2)))
    with pytest.raises(ValueError, match=rf"first.png has values of unknown range \(mode {mode}\)"):
        open_image(b"", "first.png")
