"""Text from outside can be shown without harm."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.video.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Actor1 walks right.", "Actor1 walks right."),
        ("two\nlines\tand\r\nmore", "two lines and  more"),
        ("\x1b[31mred\x1b[0m \x9b1mbold", "[31mred[0m 1mbold"),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("\u96ea\u4eba \u2603 \U0001f468\u200d\U0001f469", "\u96ea\u4eba \u2603 \U0001f468\u200d\U0001f469"),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    ],
)
def test_only_what_can_harm_is_changed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_limit_cuts_with_an_ellipsis() -> None:
    assert printable("a story " * 100, limit=20) == "a story a story a..."
    assert printable("short", limit=5) == "short"


@given(st.text(st.characters()))
def test_no_control_character_and_no_surrogate_is_ever_left(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in shown)
    shown.encode("utf-8")
