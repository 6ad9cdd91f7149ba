"""A contact sheet shows every scene, is the same every time and stands any text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2d.video import sheet as sheet_module
from m2d.video.sheet import SheetScene, sheet_png, strip_png

WARNING = (232, 128, 108)
COLOURS = ((200, 60, 50), (60, 180, 80), (70, 90, 220))


def plain_scenes(*, size: tuple[int, int] = (16, 16), num_frames: int = 9) -> list[np.ndarray]:
    return [np.full((num_frames, *size, 3), colour, np.uint8) for colour in COLOURS]


def scenes_of(scenes: list[np.ndarray], prompts: list[str]) -> list[SheetScene]:
    return [
        SheetScene(
            prompt=prompt, num_frames=len(frames), picked=lambda indices, frames=frames: frames[indices]
        )
        for frames, prompt in zip(scenes, prompts, strict=True)
    ]


def draw_sheet(scenes: list[np.ndarray], prompts: list[str], *, title: str, facts: list[str]) -> Image.Image:
    return Image.open(io.BytesIO(sheet_png(scenes_of(scenes, prompts), title=title, facts=facts)))


def colours_of(sheet: Image.Image) -> set[tuple[int, int, int]]:
    counted: list[tuple[int, tuple[int, int, int]]] = sheet.getcolors(maxcolors=1 << 24)
    return {colour for _, colour in counted}


def test_equal_stories_give_equal_bytes() -> None:
    prompts = ["Actor1 walks right.", "Actor1 jumps.", "Actor1 waves."]
    one, other = (
        sheet_png(scenes_of(plain_scenes(), prompts), title="First snow", facts=["seed 7"]) for _ in range(2)
    )
    assert one == other
    assert Image.open(io.BytesIO(one)).format == "PNG"


def test_every_scene_is_a_row_of_four_frames() -> None:
    sheet = draw_sheet(plain_scenes(), ["a", "b", "c"], title="t", facts=[])
    pixels = np.asarray(sheet)
    for colour in COLOURS:
        rows, columns = np.nonzero((pixels == colour).all(axis=-1))
        assert rows.max() - rows.min() + 1 == 384
        assert columns.max() - columns.min() + 1 == 4 * 384 + 3 * 12


@pytest.mark.parametrize(
    ("width", "shown"), [(16, 384), (64, 384), (100, 400), (144, 432), (192, 384), (193, 384), (720, 384)]
)
def test_frames_are_at_least_360_pixels_wide_and_small_ones_grow_by_whole_factors(
    width: int, shown: int
) -> None:
    frames = [np.full((2, 64, width, 3), COLOURS[0], np.uint8)]
    pixels = np.asarray(draw_sheet(frames, ["a"], title="t", facts=[]))
    _, columns = np.nonzero((pixels == COLOURS[0]).all(axis=-1))
    assert columns.max() - columns.min() + 1 == 2 * shown + 12


@pytest.mark.parametrize("width", [16, 300])
def test_frames_of_a_few_columns_are_as_high_as_four_widths_at_most(width: int) -> None:
    frames = [np.full((2, 8192, width, 3), COLOURS[0], np.uint8)]
    sheet = draw_sheet(frames, ["a"], title="t", facts=[])
    assert 4 * 384 <= sheet.height + 384 <= 6 * 384


def test_the_sheet_of_a_long_film_has_smaller_frames() -> None:
    scenes = [plain_scenes()[0]] * 25
    large, small = (draw_sheet(scenes[:number], ["a"] * number, title="t", facts=[]) for number in (24, 25))
    assert large.height > 24 * 384
    assert small.height < 25 * 300


def test_characters_without_a_font_are_named_below_and_notes_beside_the_frames() -> None:
    frames = plain_scenes()[:1]
    plain, unknown = (draw_sheet(frames, [text], title="t", facts=["f"]) for text in ("a", "\ue123"))
    assert unknown.height == plain.height + 28
    assert WARNING in colours_of(unknown) - colours_of(plain)
    (scene,) = scenes_of(frames, ["a"])
    noted = sheet_png([replace(scene, note="made with an older version of scene 2")], title="t", facts=["f"])
    assert noted != sheet_png([scene], title="t", facts=["f"])


def test_frames_are_spread_from_the_first_to_the_last() -> None:
    colours = [(250 - 25 * frame, 25 * frame, 250) for frame in range(9)]
    frames = np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in colours])
    shown = colours_of(draw_sheet([frames], ["a"], title="t", facts=[]))
    assert [index for index, colour in enumerate(colours) if colour in shown] == [0, 3, 5, 8]


@pytest.mark.parametrize(
    ("size", "num_frames"), [((64, 96), 17), ((480, 720), 3), ((16, 300), 1), ((1, 1), 2)]
)
def test_any_size_and_length_can_be_drawn(size: tuple[int, int], num_frames: int) -> None:
    sheet = draw_sheet(plain_scenes(size=size, num_frames=num_frames), ["a", "b", "c"], title="t", facts=[])
    assert set(COLOURS) <= colours_of(sheet)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 5000,
        "word " * 3000,
        "\x1b[31m\n[CHAPTER]\ud800",
        "\u05e9\u05dc\u05d5\u05dd \u96ea \U0001f9e1",
    ],
)
def test_any_text_can_be_drawn(text: str) -> None:
    sheet = draw_sheet(plain_scenes()[:1], [text], title=text, facts=[text] * 3)
    assert sheet.width < 2300
    assert sheet.height < 900


def test_scene_without_frames_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="a scene without frames"):
        draw_sheet([np.zeros((0, 4, 4, 3), np.uint8)], ["a"], title="t", facts=[])


def counted(picks: list[int], *, key: str, prompt: str = "a") -> SheetScene:
    """A scene that notes what is asked of it."""

    def picked(indices: Sequence[int]) -> list[np.ndarray]:
        picks.extend(indices)
        return [plain_scenes()[0][0] for _ in indices]

    return SheetScene(prompt=prompt, num_frames=9, picked=picked, key=key)


def test_a_row_that_was_drawn_before_is_taken_from_the_older_sheet() -> None:
    picks: list[int] = []
    scenes = [counted(picks, key=name) for name in ("one", "two", "three")]
    before = sheet_png(scenes[:2], title="t", facts=["f"])
    picks.clear()
    grown = sheet_png(scenes, title="t", facts=["f"], older=before)
    # One look for the size, and the new row.
    assert picks == [0, 0, 3, 5, 8]
    assert grown == sheet_png(scenes, title="t", facts=["f"])


@pytest.mark.parametrize(
    "change", [{"key": "other"}, {"key": ""}, {"prompt": "b"}, {"prompt": "wide " * 50}, {"number": 1}]
)
def test_a_row_that_would_look_otherwise_is_drawn_anew(change: dict[str, Any]) -> None:
    picks: list[int] = []
    before = sheet_png([counted(picks, key="one")], title="t", facts=[])
    number = change.pop("number", 0)
    scenes = [counted([], key="first")] * number + [counted(picks, **{"key": "one", **change})]
    picks.clear()
    drawn = sheet_png(scenes, title="t", facts=[], older=before)
    assert picks == [0, 0, 3, 5, 8]
    assert drawn == sheet_png(scenes, title="t", facts=[])


def plain_png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


SHEET = sheet_png([counted([], key="one")], title="t", facts=["f"])


@pytest.mark.parametrize(
    "older",
    [
        b"text",
        plain_png(Image.open(io.BytesIO(SHEET)).size),
        SHEET[:60],
        SHEET[:-400],
        SHEET.replace(b"[[", b"[{"),
        sheet_png([counted([], key="one", prompt="wide " * 50)], title="t", facts=["f"]),
    ],
)
def test_what_is_no_sheet_of_the_film_is_ignored(older: bytes) -> None:
    assert sheet_png([counted([], key="one")], title="t", facts=["f"], older=older) == SHEET


def test_of_more_scenes_than_fit_the_last_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet_module, "MOST_ROWS", 2)
    sheet = draw_sheet(plain_scenes(), ["a", "b", "c"], title="t", facts=[])
    assert COLOURS[0] not in colours_of(sheet)
    assert set(COLOURS[1:]) <= colours_of(sheet)


def test_a_strip_shows_its_frames_side_by_side_in_order() -> None:
    frames = [scene[0] for scene in plain_scenes()]
    strip = Image.open(io.BytesIO(strip_png(frames, ["scene 1", "scene 2", "scene 3"], title="step 4 of 50")))
    middle = np.asarray(strip)[strip.height // 2 + 20]
    lefts = [np.flatnonzero((middle == colour).all(axis=-1)) for colour in COLOURS]
    assert [len(columns) for columns in lefts] == [384, 384, 384]
    assert lefts[0][-1] < lefts[1][0] < lefts[1][-1] < lefts[2][0]


@pytest.mark.parametrize("text", ["", "x" * 5000, "\x1b[31m\n[CHAPTER]\ud800"])
def test_a_strip_stands_any_text(text: str) -> None:
    strip = Image.open(io.BytesIO(strip_png([plain_scenes()[0][0]], [text], title=text)))
    assert strip.size == (384 + 40, 384 + 96)


def test_a_strip_needs_a_label_for_every_frame() -> None:
    with pytest.raises(ValueError, match="2 frames with 1 labels"):
        strip_png([scene[0] for scene in plain_scenes()[:2]], ["a"], title="t")


def test_a_strip_of_many_scenes_has_smaller_frames() -> None:
    frames = [plain_scenes()[0][0]] * 7
    strip = Image.open(io.BytesIO(strip_png(frames, ["scene"] * 7, title="t")))
    assert strip.width == 2 * 20 + 7 * 208 + 6 * 12
