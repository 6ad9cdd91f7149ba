"""Shots are trimmed at their cuts and rejected for one stated reason."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from m2d.curation.filter import filter_shots
from m2d.curation.settings import FilterSettings
from m2d.curation.shots import Shot, border_share, difference_hash

HASHES = tuple(f"{number:064x}" for number in (1 << 255, 1 << 200, 1 << 100))
SHOT = Shot(
    film="a.mp4",
    sha256="0" * 64,
    start_s=10.0,
    end_s=15.0,
    num_frames=120,
    fps=24.0,
    width=64,
    height=64,
    begins="cut",
    ends="cut",
    brightness=90.0,
    motion=2.0,
    border=0.0,
    sharpness=100.0,
    hashes=(HASHES[0], HASHES[1], HASHES[2]),
    stills="s",
)


def reason_of(shot: Shot, **settings: float) -> str:
    (line,) = filter_shots([shot], FilterSettings(**settings))  # type: ignore[arg-type]
    return line.reason


def test_two_frames_are_trimmed_at_each_cut_and_long_shots_shortened() -> None:
    (line,) = filter_shots([SHOT], FilterSettings())
    (kept,) = line.outputs
    assert (kept.start_s, kept.end_s) == (pytest.approx(10 + 2 / 24), pytest.approx(15 - 2 / 24))
    (line,) = filter_shots([SHOT], FilterSettings(max_s=3.0))
    assert line.outputs[0].end_s - line.outputs[0].start_s == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"end_s": 11.9}, r"is too short: 1\.73 s of 2 s"),
        ({"brightness": 3.0}, r"is black: mean level 3\.0"),
        ({"motion": 0.0}, "is still: changes by 0.00 levels a frame"),
        ({"border": 0.25}, "has a border: of 25% of its side"),
        ({"sharpness": 2.0}, r"is blurred: sharpness 2\.0"),
    ],
)
def test_a_rejected_shot_has_its_reason(change: dict[str, float], reason: str) -> None:
    assert re.search(reason, reason_of(replace(SHOT, **change)))  # type: ignore[arg-type]
    assert reason_of(SHOT) == ""


def test_of_near_duplicates_the_first_is_kept() -> None:
    nearly = (f"{(1 << 255) | 3:064x}", HASHES[1], HASHES[2])
    other = (f"{(1 << 255) | ((1 << 90) - 1):064x}", HASHES[1], HASHES[2])
    shots = [SHOT, replace(SHOT, start_s=20.0, end_s=25.0, hashes=nearly), replace(SHOT, hashes=other)]
    reasons = [line.reason for line in filter_shots(shots, FilterSettings())]
    assert reasons[0] == reasons[2] == ""
    assert reasons[1].startswith("is a near-duplicate: of a.mp4 10.000")


def test_bars_are_measured_and_a_sky_is_none() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (100, 160, 3)).astype(np.uint8)
    barred = picture.copy()
    barred[:10] = barred[-10:] = 16
    sky = picture.copy()
    sky[:30] = 200
    assert border_share([barred, barred]) == pytest.approx(0.2)
    assert border_share([picture]) == border_share([sky]) == 0.0


def test_a_difference_hash_survives_brightness_and_changes_with_the_picture() -> None:
    grey = np.random.default_rng(0).integers(40, 200, (64, 64)).astype(np.uint8)
    assert difference_hash(grey) == difference_hash(grey + 20)
    assert difference_hash(grey) != difference_hash(grey.T.copy())
