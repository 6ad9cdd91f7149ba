from __future__ import annotations

from pathlib import Path

import pytest

from m2d.curation.sidecar import read_sidecar
from m2d.errors import DatasetError


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("film.txt", "A \x07 tree.", r"film.txt: caption: forbidden character U\+0007; remove it"),
        (
            "film.captions.json",
            '[{"start_s": 0, "end_s": 1, "caption": "\\u202e"}]',
            r"film.captions.json: 0.caption: forbidden character U\+202E",
        ),
        ("film.captions.json", '[{"start_s": 0, "end_s": 1, "caption": "\\ud800"}]', "film.captions.json: "),
    ],
)
def test_a_character_that_no_recipe_may_hold_is_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=message):
        read_sidecar(tmp_path / "film.mp4")
