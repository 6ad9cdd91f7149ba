"""Strict JSON: the same tree as YAML, with places, limits and refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.errors import RecipeError
from m2d.recipe.places import forbidden_character
from m2d.recipe.yaml_text import parse_json

_TEXT = st.text(max_size=20).filter(lambda text: forbidden_character(text) is None)
_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
)
_DOCUMENTS = st.recursive(
    _ATOMS, lambda node: st.lists(node, max_size=4) | st.dictionaries(_TEXT, node, max_size=4), max_leaves=20
)


def _as_lists(value: object) -> object:
    if isinstance(value, tuple):
        return [_as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


@given(_DOCUMENTS, st.booleans(), st.sampled_from([None, 2, "\t"]))
def test_what_the_standard_library_writes_is_read_back(
    document: object, is_ascii: bool, indent: int | str | None
) -> None:
    tree = parse_json(json.dumps(document, ensure_ascii=is_ascii, indent=indent), name="x.json")
    assert _as_lists(tree.value) == document


def test_every_node_knows_its_place() -> None:
    places = parse_json('[\n  {"scene": 1,\n   "background": "park"}\n]', name="x.json").places
    assert str(places.problem((0, "background"), "bad")) == "x.json:3:18: [0].background: bad"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x\.json:1:1: the file is empty"),
        ("[1, 2", r"x\.json:1:[67]: not valid JSON: expecting ',' delimiter"),
        ("[1, ]", r"1:[45]: not valid JSON: (expecting value|illegal trailing comma)"),
        ("[1] x", r"1:5: not valid JSON: extra data"),
        ("{a: 1}", r"1:2: not valid JSON: expecting property name enclosed in double quotes"),
        ('{"a" 1}', r"1:6: not valid JSON: expecting ':' delimiter"),
        ('["abc', r"1:2: not valid JSON: unterminated string"),
        (r'["\q"]', r"1:[34]: not valid JSON: invalid \\escape"),
        ("[" * 1000 + "]" * 1000, r"1:21: .*nested more than 20 levels"),
        ("[" * 99_999 + "]" * 99_999, r"1:21: .*nested more than 20 levels"),
        ('{"a"\n: 1}', r"2:1: not valid JSON: expected ',' or '}', but got ':'"),
        ("[" + "1," * 30000 + "1]", r"more than 20000 values"),
        ("[\x00]", r"1:2: forbidden character U\+0000"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_json(text, name="x.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "a": 2}', "x.json:2:2: a: duplicate key, first given in line 1; keep one"),
        ("[" + "1" * 5000 + "]", "x.json:1:2: [0]: a number of 5000 characters; at most 40 are allowed"),
        ("[-Infinity]", "x.json:1:2: [0]: '-Infinity' is no JSON value; use a finite number"),
        (r'["\u0007"]', "x.json:1:2: [0]: holds the forbidden character U+0007; remove it"),
    ],
)
def test_problems_of_single_values_do_not_end_the_reading(text: str, message: str) -> None:
    assert [str(problem) for _, problem in parse_json(text, name="x.json").problems] == [message]
