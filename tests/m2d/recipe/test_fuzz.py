"""Damaged recipes: whatever the text, loading ends soon, in a recipe or in a RecipeError."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2d.errors import RecipeError
from m2d.recipe.figure5 import Figure5
from m2d.recipe.loader import parse_document
from m2d.recipe.schema import Recipe
from m2d.recipe.template import story_template
from m2d.recipe.text_file import decode_text
from m2d.recipe.writer import to_yaml
from m2d.recipe.yaml_text import parse_json

_LIMIT_S = 2.0
_PLACED = re.compile(r"fuzz\.(yaml|json)(:[1-9][0-9]*:[1-9][0-9]*)?: \S")

_STORIES = [
    path.read_bytes() for path in sorted((Path(__file__).parents[3] / "recipes/stories").glob("*.yaml"))
]
_STORIES.append(story_template().encode())
_FIGURE5 = json.dumps(
    [
        {
            "scene": number,
            "background": "City Park at Dusk",
            "characters": [{"name": "Actor1", "description": "green hoodie"}],
            "descriptions": ["Actor1 (green hoodie) sits.", "Actor1 (green hoodie) walks."],
        }
        for number in (1, 2)
    ],
    indent=1,
).encode()

_PIECES = st.sampled_from(
    [
        piece.encode()
        for piece in ("&a ", "*a", "!!python/name:os.system ", "<<: ", "? ", "- ", "---\n", "...\n", "%TAG\n")
    ]
    + [
        piece.encode()
        for piece in ("[", "{", "}", "]", '"', "'", "|\n", ">-\n", "\t", "\n", "\r", ": ", "#", ",", "\\")
    ]
    + [
        piece.encode()
        for piece in ("\\x1b", "\\ud800", "\\UFFFFFFFF", "~", ".nan", "-.inf", "1e999", "0x", "9" * 5000)
    ]
    + [
        piece.encode()
        for piece in ("[" * 5000, "- " * 5000, "a: {" * 500, "Actor99", "ACTOR1", "Actor1 " * 2000)
    ]
    + [
        "\u202e".encode(),
        "\u0085".encode(),
        "\ufeff".encode(),
        b"\x00",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\x1b[31m",
    ]
)


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Draw one of `originals` with bytes cut, copied, replaced or put in."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 40)))
        into = draw(_PIECES | st.binary(max_size=4) | st.just(data[start:stop] * 2))
        data = data[:start] + into + data[stop:]
    return data


def load_in_time(data: bytes, *, name: str) -> None:
    """Load `data` as a recipe (or as Figure 5's form) and hold it to what is promised of any text."""
    start_s = time.process_time()
    complaint = ""
    try:
        text = decode_text(data, name=name)
        if name.endswith(".json"):
            parse_document(text, Figure5, name=name, parse=parse_json)
        else:
            recipe = parse_document(text, Recipe, name=name).value
            assert parse_document(to_yaml(recipe), Recipe, name=name).value == recipe
    except RecipeError as error:
        complaint = str(error)
    for line in complaint.splitlines():
        assert _PLACED.match(line), line
        assert line.isprintable(), line
    assert time.process_time() - start_s < _LIMIT_S


_FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
_MANY = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@_FEW
@given(damaged(_STORIES))
def test_a_damaged_story_ends_in_a_recipe_or_in_placed_problems(data: bytes) -> None:
    load_in_time(data, name="fuzz.yaml")


@_FEW
@given(damaged([_FIGURE5]))
def test_a_damaged_figure5_file_ends_in_stories_or_in_placed_problems(data: bytes) -> None:
    load_in_time(data, name="fuzz.json")


@pytest.mark.long
@settings(_MANY, max_examples=2000)
@given(damaged(_STORIES))
def test_two_thousand_damaged_stories(data: bytes) -> None:
    load_in_time(data, name="fuzz.yaml")


@pytest.mark.long
@settings(_MANY)
@given(st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "ignore")))
def test_a_thousand_files_of_noise(data: bytes) -> None:
    load_in_time(data, name="fuzz.yaml")
    load_in_time(data, name="fuzz.json")


_HUGE = {
    "one word": "x" * 999_000,
    "words": "x " * 499_000,
    "escapes": '"' + "\\n" * 499_000 + '"',
    "quotes": "'" + "''" * 400_000 + "'",
    "values": "[" + "a," * 400_000,
    "comment": "#x" * 400_000,
    "spaces": " " * 999_000,
    "tag": "a: !" + "x" * 900_000,
    "anchor": "a: &" + "x" * 900_000,
    "directive": "%YAML 1." + "1" * 900_000,
    "number": "a: " + "9" * 900_000,
    "questions": "? " * 400_000,
    "lines": "a: x" + "\n" * 19_900 + " y",
    "keys": "".join(f"k{i}: 1\n" for i in range(9_000)),
    "actors": "title: x\nscenes: [" + " ".join(f"Actor{i}" for i in range(80_000)) + "]",
    "scenes": "title: x\nscenes: [" + "a, " * 19_000 + "]",
}


@pytest.mark.long
@pytest.mark.parametrize("text", _HUGE.values(), ids=_HUGE)
def test_a_megabyte_of_anything_is_refused_in_seconds(text: str) -> None:
    start_s = time.process_time()
    with pytest.raises(RecipeError, match=r"fuzz\.yaml"):
        parse_document(decode_text(text.encode(), name="fuzz.yaml"), Recipe, name="fuzz.yaml")
    # The scanner is pure Python: a few microseconds a character on a slow core.
    assert time.process_time() - start_s < 5
