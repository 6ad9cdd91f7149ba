"""Text in pictures: every script has a font of the package or of the system, or is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from m2d.video.lettering import (
    clusters,
    describe_characters,
    draw_line,
    missing_characters,
    text_width,
)

ROOT = Path(__file__).resolve().parents[3]
TEXTS = {
    "Latin": "Gr\u00f6\u00dfe \u00e9 \u00f1 \u0141\u00f3d\u017a \u1ec7 \u201cq\u201d \u2014 \u2192 \u2713",
    "Greek": "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "Cyrillic": "\u041f\u0440\u043e\u0433\u0443\u043b\u043a\u0430 \u0457 \u0491",
    "Hebrew": "\u05e2\u05d1\u05e8\u05d9\u05ea",
    "Arabic": "\u0645\u0634\u064a \u0639\u0644\u0649",
}
UNASSIGNED = "\ue123"


def drawn(text: str) -> np.ndarray:
    picture = Image.new("RGB", (400, 40))
    draw_line(picture, (5, 30), text, size=20, fill=(255, 255, 255))
    return np.asarray(picture)


@pytest.mark.parametrize("script", TEXTS)
def test_the_package_has_a_font_for(script: str) -> None:
    text = TEXTS[script]
    assert missing_characters([text]) == ""
    boxes = drawn(UNASSIGNED)
    letters = [drawn(letter) for letter in text.replace(" ", "")]
    assert all(letter.any() and not np.array_equal(letter, boxes) for letter in letters)


def test_right_to_left_text_is_laid_out_from_the_right() -> None:
    alef, bet = "\u05d0", "\u05d1"
    assert np.array_equal(drawn(alef + bet), drawn("\u202d" + bet + alef))
    # Arabic letters take other forms beside each other.
    assert text_width("\u0639\u0644", 20) != text_width("\u0639", 20) + text_width("\u0644", 20)


def test_characters_without_a_font_are_boxes_and_named_once_by_script() -> None:
    assert missing_characters([f"a{UNASSIGNED}", f"{UNASSIGNED}b"]) == UNASSIGNED
    assert np.array_equal(drawn(UNASSIGNED), drawn("\u25a1"))
    named = describe_characters("\u6d77\u8fb9\u6563\u6b65\u9633\uc548\U0001f3ac")
    assert named == "CJK U+6D77 U+8FB9 U+6563 U+6B65 and 1 more, Hangul U+C548, signs U+1F3AC"


def test_marks_and_joiners_stay_with_their_characters() -> None:
    family = "\U0001f468\u200d\U0001f469"
    assert clusters(f"e\u0301a{family}\ufe0f") == ["e\u0301", "a", f"{family}\ufe0f"]


def write_font(path: Path, character: str) -> None:
    """Write a font that has a filled square for one character."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(character): "square"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (500, 0), "square": (900, 50)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path.parent.mkdir(parents=True)
    font.save(path)


@pytest.mark.parametrize("lists", ["no fc-list", "an fc-list that fails", "a font that is none"])
def test_a_font_in_the_users_folder_draws_what_the_package_lacks(lists: str, tmp_path: Path) -> None:
    write_font(tmp_path / ".local/share/fonts/square.ttf", UNASSIGNED)
    programs = tmp_path / "bin"
    programs.mkdir()
    if lists == "an fc-list that fails":
        (programs / "fc-list").write_text("#!/bin/sh\nexit 1\n")
        (programs / "fc-list").chmod(0o755)
    if lists == "a font that is none":
        (tmp_path / ".local/share/fonts/a.ttf").write_bytes(b"\0\1\0\0" + b"no font" * 9)
    code = (
        "from m2d.video.lettering import missing_characters as missing\n"
        f"assert missing([{UNASSIGNED!r}]) == ''\n"
        f"assert missing([{chr(0xE124)!r}]) != ''\n"
    )
    variables = {**os.environ, "HOME": str(tmp_path), "PATH": str(programs), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=variables, timeout=60)
