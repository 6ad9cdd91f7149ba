"""Scenes that stay are copied as they are encoded: the same pixels, and no work that grows with the film."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.decoded_film import read_film
from m2d.film.make import FilmResult
from m2d.video import sheet
from m2d.video.provenance import Provenance, seal_provenance
from m2d.video.read import probe
from m2d.video.run_folder import run_folder_of
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import PROMPTS, Stopping, Studio, frames_of, open_studio, retagged


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def five(studio: Studio) -> FilmResult:
    """Five scenes; the second is blended with the first, the last matched in colour."""
    scenes = [
        PROMPTS[0],
        {"prompt": PROMPTS[1], "join": {"crossfade": 2}},
        *PROMPTS[2:4],
        {"prompt": PROMPTS[4], "match_colour": True},
    ]
    return studio.generate(scenes=scenes, name="five")


def packets_of(provenance: Provenance) -> list[str | None]:
    return [scene.packets_sha256 for scene in provenance.scenes]


def jumps_of(provenance: Provenance) -> list[float | None]:
    return [scene.colour_jump for scene in provenance.scenes]


def test_a_film_shows_the_same_pixels_after_it_has_grown(studio: Studio, five: FilmResult) -> None:
    grown = studio.extend(five.film, PROMPTS[5], out=studio.path("grown"))
    before, after = read_film(five.film).frames_PHWC, read_film(grown.film).frames_PHWC
    assert len(after) == len(before) + 5
    assert np.array_equal(after[: len(before)], before)
    assert packets_of(grown.provenance)[:5] == packets_of(five.provenance)
    assert jumps_of(grown.provenance)[:5] == jumps_of(five.provenance)


def test_a_crossfade_takes_the_last_frames_of_a_scene_and_leaves_the_others(
    studio: Studio, five: FilmResult
) -> None:
    grown = studio.extend(five.film, PROMPTS[5], out=studio.path("faded"), join={"crossfade": 2})
    before, after = read_film(five.film).frames_PHWC, read_film(grown.film).frames_PHWC
    assert len(after) == len(before) + 3
    assert np.array_equal(after[: len(before) - 2], before[:-2])
    again = studio.extend(grown.film, PROMPTS[6], out=studio.path("faded-on"))
    assert np.array_equal(read_film(again.film).frames_PHWC[: len(after)], after)


@pytest.mark.parametrize(("chosen", "changed"), [(2, {2}), (0, {0, 1}), (4, {4})])
def test_a_re_roll_changes_what_is_shown_of_that_scene_alone(
    chosen: int, changed: set[int], studio: Studio, five: FilmResult
) -> None:
    anew = studio.reroll(five.film, chosen, out=studio.path(f"anew-{chosen}"))
    pairs = list(zip(packets_of(five.provenance), packets_of(anew.provenance), strict=True))
    # What is blended with the new scene is shown by the scene after it.
    assert {number for number, (old, new) in enumerate(pairs) if old != new} == changed
    old, new = (read_film(film).frames_PHWC for film in (five.film, anew.film))
    for number, (scene, length) in enumerate(
        zip(five.provenance.scenes, five.provenance.shown_frames, strict=True)
    ):
        span = slice(scene.first_frame, scene.first_frame + length)
        assert np.array_equal(old[span], new[span]) is (number not in changed)


@pytest.mark.long
def test_no_more_is_decoded_however_long_the_film_is(studio: Studio, five: FilmResult) -> None:
    film, decoded = five.film, []
    for number in range(3):
        reporter = Stopping(stage_to_stop="none")
        film = studio.extend(film, PROMPTS[5], out=studio.path(f"longer-{number}"), reporter=reporter).film
        decoded.append(reporter.done["decode"])
    # The new scene, and the one it follows.
    assert decoded == [2, 2, 2]


def test_a_copy_is_what_encoding_it_again_would_give(studio: Studio, five: FilmResult) -> None:
    copied = studio.extend(five.film, PROMPTS[5], out=studio.path("copied"))
    foreign = retagged_copy(studio, five, "foreign", spoil=True)
    told = RecordingReporter()
    encoded = studio.extend(foreign, PROMPTS[5], out=studio.path("encoded"), reporter=told)
    assert any("all scenes are encoded again" in note and "other settings" in note for note in told.notes)
    assert frames_of(encoded.provenance) == frames_of(copied.provenance)
    assert packets_of(encoded.provenance) == packets_of(copied.provenance)


def test_the_film_in_place_is_copied_before_it_is_replaced(studio: Studio, five: FilmResult) -> None:
    film = retagged_copy(studio, five, "in-place", spoil=False)
    before = read_film(film).frames_PHWC
    for prompt in PROMPTS[5:7]:
        studio.extend(film, prompt, out=film, force=True)
    assert np.array_equal(read_film(film).frames_PHWC[: len(before)], before)
    assert len(probe(film).chapters) == 7


def retagged_copy(studio: Studio, made: FilmResult, name: str, *, spoil: bool) -> Path:
    """The film and its run folder under another name; spoilt, both tell of another encoder."""
    target = studio.path(name)
    shutil.copy(made.film, target)
    shutil.copytree(made.run_folder, run_folder_of(target))
    if spoil:
        encoded_otherwise(target, made)
    return target


def encoded_otherwise(film: Path, made: FilmResult) -> None:
    """Let film and run folder tell of another encoder."""
    video = made.provenance.video.model_copy(update={"encoding": "0" * 64})
    told = made.provenance.model_copy(update={"video": video})
    retagged(film, seal_provenance(told))
    record = run_folder_of(film) / "run.json"
    document = json.loads(record.read_text("utf-8"))
    document["provenance"] = json.loads(seal_provenance(told))
    record.write_text(json.dumps(document), "utf-8")


@pytest.mark.long
def test_the_sheet_of_a_longer_film_draws_no_more_than_that_of_a_shorter_one(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw_row = sheet._draw_row

    def counted(scene: sheet.SheetScene, number: int, *rest: Any) -> Image.Image:
        drawn.append(number)
        return draw_row(scene, number, *rest)

    film = studio.generate(3, name="sheet").film
    monkeypatch.setattr(sheet, "_draw_row", counted)
    for number in range(4, 7):
        film = studio.extend(film, PROMPTS[5]).film
        assert drawn == [number]
        drawn.clear()
    png = run_folder_of(film) / "sheet.png"
    png.write_bytes(png.read_bytes() + b"changed")
    studio.extend(film, PROMPTS[5])
    assert drawn == [1, 2, 3, 4, 5, 6, 7]
