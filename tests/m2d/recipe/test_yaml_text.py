"""Strict YAML: values by YAML 1.2, places, limits and refusals."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from m2d.errors import RecipeError
from m2d.recipe.text_file import MAX_BYTES, MAX_LINES, read_text
from m2d.recipe.yaml_text import MAX_DEPTH, MAX_NODES, parse_yaml


def read(text: str) -> object:
    """Parse `text`, which must be free of problems, to plain values."""
    tree = parse_yaml(text, name="story.yaml")
    assert tree.problems == ()
    return tree.value


def complaints(text: str) -> str:
    """Return all problems of `text`, fatal or not, one a line."""
    try:
        tree = parse_yaml(text, name="story.yaml")
    except RecipeError as error:
        return str(error)
    return "\n".join(str(problem) for _, problem in tree.problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("014", 14),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-02", "2026-01-02"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'1'", "1"),
        ('"true"', "true"),
        ("<<", "<<"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = read(f"key: {text}\n")
    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


def test_nan_is_a_number_that_the_schema_can_refuse() -> None:
    found = read("key: .nan")
    assert isinstance(found, dict)
    assert math.isnan(found["key"])


def test_every_node_knows_its_place() -> None:
    places = parse_yaml("a: 1\nscenes:\n  - one\n  - prompt: two\n", name="story.yaml").places
    assert str(places.problem(("scenes", 1, "prompt"), "bad")) == "story.yaml:4:13: scenes[1].prompt: bad"
    assert str(places.problem(("scenes", 1, "prompt"), "bad", at_key=True)).startswith("story.yaml:4:5:")
    assert str(places.problem(("scenes", 1, "seed"), "bad")).startswith("story.yaml:4:5: scenes[1].seed")


def test_places_count_windows_line_ends_once() -> None:
    places = parse_yaml("a: 1\r\nb: 2\r\n", name="story.yaml").places
    assert str(places.problem(("b",), "bad")) == "story.yaml:2:4: b: bad"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\n", r"story\.yaml:1:4: a: anchors are not allowed, got 'x'"),
        ("a: 1\nb: *x\n", r"story\.yaml:2:4: b: aliases are not allowed, got 'x'"),
        ("a: !!python/object:os.system 1\n", r"1:4: a: tags are not allowed, got 'tag:yaml\.org,2002:python"),
        ("a: ! 1\n", r"1:4: a: tags are not allowed, got '!'"),
        ("a: 1\nb: 2\na: 3\n", r"story\.yaml:3:1: a: duplicate key, first given in line 1"),
        ("1: x\n", r"1:1: keys must be text, got 1; put it in quotes"),
        ("null: x\n", r"1:1: keys must be text, got nothing"),
        ("? [a, b]\n: x\n", r"1:3: keys must be text, got a list or mapping"),
        ("a: 1\n---\nb: 2\n", r"2:1: a second document starts here"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", r"%TAG directives are not allowed"),
        ("a: " + "9" * 200_000, r"1:4: a: a number of 200000 characters; at most 40"),
        ('a: "\\x1b[31m"\n', r"1:4: a: holds the forbidden character U\+001B"),
        ('a: "\\ud800"\n', r"1:4: a: holds the forbidden character U\+D800"),
        ('a: "\\UFFFFFFFF"\n', r"1:7: not valid YAML: a character or number out of range"),
        ("%YAML 1." + "1" * 9000 + "\n---\na: 1\n", r"1:9: not valid YAML"),
        ("a: [1, 2\n", r"2:1: not valid YAML: expected ',' or '\]'"),
        ("a: b: c\n", r"1:5: not valid YAML: a second `: ` in one line; put text"),
        ("a:\n\t- b\n", r"2:1: not valid YAML: a tab; indent with spaces"),
        ("a: \x07\n", r"1:4: forbidden character U\+0007; remove it"),
        ("a: 1\nb: \x1b \x1b\n", r"2:4: forbidden character U\+001B \(and 1 more\)"),
        ("a: \u202etxt\n", r"1:4: forbidden character U\+202E"),
        ("", r"story\.yaml:1:1: the file is empty"),
        ("# only a comment\n", r"the file is empty"),
    ],
)
def test_what_a_recipe_may_not_hold_is_named_with_its_place(text: str, message: str) -> None:
    assert re.search(message, complaints(text)), complaints(text)


def test_all_problems_of_single_values_are_reported_together() -> None:
    found = complaints("a: &x 1\nb: *x\nb: 2\nc: !t 3\n")
    assert [line.split(":")[1] for line in found.splitlines()] == ["1", "2", "3", "4"]


def test_deep_nesting_is_refused_at_the_limit() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert f"nested more than {MAX_DEPTH} levels" in complaints("[" * 100_000)


def test_many_values_are_refused_at_the_limit() -> None:
    assert f"more than {MAX_NODES} values" in complaints("[" + "a," * 100_000 + "]")


def test_an_alias_bomb_expands_nothing() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(20))
    assert "aliases are not allowed" in complaints(bomb)


def test_a_file_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "story.yaml"
    path.write_bytes(b"\xef\xbb\xbftitle: x\n")
    assert read_text(path) == "title: x\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"title: \xff\n", r":1:8: not UTF-8 text \(byte 0xff\); save the file as UTF-8"),
        ("\ufefftitle: x".encode("utf-16"), r":1:1: not UTF-8 text"),
        (b"\x00\x00\x00\x20ftypisom\xff", r"story\.yaml: is no text file; give a YAML or JSON file"),
        (b"\xff\x00" * MAX_BYTES, r"is no text file"),
        (b"a: 1\nb: \x00\n", r":2:4: forbidden character U\+0000"),
        (b"a: 1\rb: 2\n", r":1:5: forbidden character U\+000D"),
        (b"#" * (MAX_BYTES + 1), r"larger than 1000000 bytes"),
        (b"\n" * (MAX_LINES + 1), r"more than 20000 lines"),
    ],
)
def test_files_that_are_no_plain_text_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "story.yaml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=message):
        read_text(path)


def test_missing_files_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such file"):
        read_text(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="not a regular file"):
        read_text(tmp_path)
    with pytest.raises(RecipeError, match="not a regular file"):
        read_text(Path("/dev/zero"))
