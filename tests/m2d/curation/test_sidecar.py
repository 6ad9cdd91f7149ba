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
        (
            "film.captions.json",
            '[{"caption": "a", "caption": "b"}]',
            r"json: duplicate key 'caption'; keep one$",
        ),
        ("film.captions.json", "[\n{]", r"film.captions.json:2: not valid JSON: "),
        ("film.captions.json", "[7]", r"film.captions.json: 0: "),
        (
            "film.captions.json",
            "[] []",
            r"film.captions.json:1: not valid JSON: something follows the value$",
        ),
    ],
)
def test_what_cannot_be_a_caption_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=message):
        read_sidecar(tmp_path / "film.mp4")
