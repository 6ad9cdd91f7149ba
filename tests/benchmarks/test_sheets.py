from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.sheets import STORIES, Made, largest_bytes, make, side_by_side, small_png
from tests.m2d.model.tiny_model import build_tiny_model

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def made_of(colours: tuple[tuple[int, int, int], ...], *, prompt: str = "Actor1 jumps.") -> Made:
    """A story of flat scenes whose last frame alone has the colour."""
    scenes = []
    for colour in colours:
        frames_PHWC = np.zeros((5, 64, 64, 3), np.uint8)
        frames_PHWC[-1] = colour
        scenes.append(frames_PHWC)
    return Made(sheet=Image.new("RGB", (8, 8)), scenes=tuple(scenes), prompts=(prompt,) * len(scenes))


def test_scenes_stand_side_by_side_in_order() -> None:
    picture = side_by_side(made_of(COLOURS), frame=4)
    row = np.asarray(picture)[200]
    shown = [tuple(row[x]) for x in np.linspace(200, picture.width - 200, 3).round().astype(int)]
    assert shown == list(COLOURS)


def test_a_long_story_goes_on_in_further_rows() -> None:
    colours = tuple((20 * number + 10, 40, 90) for number in range(12))
    picture = np.asarray(side_by_side(made_of(colours), frame=4))
    shown = [tuple(int(level) for level in pixel) for row in picture for pixel in row[::64]]
    assert list(dict.fromkeys(pixel for pixel in shown if pixel in colours)) == list(colours)
    assert picture.shape[1] < 1_200


@pytest.mark.parametrize(("num_scenes", "limit"), [(3, 400_000), (8, 400_000), (12, 600_000)])
def test_a_longer_story_s_picture_may_be_larger(num_scenes: int, limit: int) -> None:
    assert largest_bytes(num_scenes) == limit


@pytest.mark.parametrize(("frame", "is_last"), [(4, True), (3, False), (99, True)])
def test_the_asked_frame_is_shown_or_the_last(frame: int, is_last: bool) -> None:
    row = np.asarray(side_by_side(made_of(COLOURS), frame=frame))[200]
    assert (COLOURS[0] in {tuple(pixel) for pixel in row}) is is_last


def test_long_prompts_take_more_lines() -> None:
    short = side_by_side(made_of(COLOURS), frame=0)
    tall = side_by_side(made_of(COLOURS, prompt="Actor1 walks right and jumps. " * 5), frame=0)
    assert tall.width == short.width
    assert tall.height > short.height


def test_a_picture_loses_colours_rather_than_grow_too_large() -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    picture = Image.fromarray(noise_HWC)
    assert Image.open(io.BytesIO(small_png(picture))).mode == "RGB"
    png = small_png(picture, limit_bytes=6_000)
    assert len(png) <= 6_000
    assert Image.open(io.BytesIO(png)).mode == "P"


def test_a_picture_that_cannot_be_made_small_is_refused() -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="64x64 does not fit into 500 bytes"):
        small_png(Image.fromarray(noise_HWC), limit_bytes=500)


@pytest.mark.long
def test_a_story_becomes_pictures(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    made = make(STORIES / "first-snow.yaml", options=["--model", str(model), "--steps", "1"])
    # The size is the model's.
    assert [scene.shape for scene in made.scenes] == [(9, 32, 32, 3)] * 3
    assert made.prompts[1] == "Actor1 stands still. Actor2 waves."
    assert len(small_png(made.sheet)) <= 400_000
    # Thirteen times is the largest whole factor that stays within 432 pixels.
    assert side_by_side(made, frame=4).width == 3 * 13 * 32 + 2 * 16 + 2 * 28
