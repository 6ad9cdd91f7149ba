from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from m2d.data.video_path import VideoPaths


@pytest.fixture
def paths(tmp_path: Path) -> VideoPaths:
    for name in ("clips/Day 1/Caf\u00e9.mp4", "clips/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return VideoPaths(root=tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        "clips/Day 1/Caf\u00e9.mp4",
        "clips\\Day 1\\Caf\u00e9.mp4",
        " clips/Day 1/Caf\u00e9.mp4 ",
        unicodedata.normalize("NFD", "clips/Day 1/Caf\u00e9.mp4"),
        unicodedata.normalize("NFD", "clips\\Day 1\\Caf\u00e9.mp4"),
        "clips/../clips/Day 1/Caf\u00e9.mp4",
    ],
)
def test_other_spellings_of_a_path_find_the_file(value: str, paths: VideoPaths) -> None:
    found = paths.find(value)
    assert found is not None
    assert found.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("C:\\clips\\b.mp4", "is a path on a Windows drive"),
        ("clip\\b.mp4", "no folder .*clip; set data.root"),
        ("clips/B.MP4", r"no such file under .*, but there is b.mp4; its letters differ in case"),
        ("clips/Day 1/Cafe.mp4", "no such file under .*; did you mean Caf\u00e9.mp4"),
        ("clips/other.mp4", "no such file under .*; set data.root"),
        ("clips/Day 1", "is a folder; name a video file"),
    ],
)
def test_a_missing_file_gives_the_cause(value: str, reason: str, paths: VideoPaths) -> None:
    assert paths.find(value) is None
    assert re.search(reason, paths.why_missing(value))
