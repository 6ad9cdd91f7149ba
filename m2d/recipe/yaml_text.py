"""Strict YAML and JSON: text to plain values with the place of every field, by the core schema of YAML 1.2.

Anchors, aliases, tags, duplicate keys, keys that are not text, several documents, and documents over the
limits below are rejected. The reader builds no objects, includes no files and expands no aliases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal, Protocol

import yaml

from m2d.errors import Problem, RecipeError, Remedy
from m2d.recipe.places import (
    Atom,
    KeyPath,
    ParsedText,
    Place,
    Places,
    forbidden_character,
    name_character,
    place_at,
    place_problem,
    show,
)
from m2d.recipe.text_file import check_characters

MAX_DEPTH = 20
MAX_NODES = 20_000
MAX_PROBLEMS = 50

# Far above 2**63 - 1 (19 digits) and any sensible decimal, far below what makes int() slow or refuse.
_MAX_NUMBER_CHARACTERS = 40

# YAML 1.2.2, section 10.3.2 (core schema): `no`, `1_000`, `12:30` and dates are text, 014 is fourteen.
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Atom]], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"), lambda text: float(text.replace(".", ""))),
)


def parse_yaml(text: str, *, name: str, language: Literal["YAML", "JSON"] = "YAML") -> ParsedText:
    """Parse one document; the caller adds its own problems to those of single fields and raises all.

    Args:
        name: The file as the user named it; it starts every message.
        language: JSON is a part of YAML: its syntax must have been checked.

    Raises:
        RecipeError: The text is no YAML at all, is empty, or breaks a limit.
    """
    check_characters(text, name=name)
    return _Reader(text, name=name, language=language).document()


def parse_json(text: str, *, name: str) -> ParsedText:
    """Parse one document of strict JSON, with the values, places, limits and errors of `parse_yaml`.

    The standard library checks the syntax, but reports no places, lets the last of two equal keys win and
    accepts NaN. So the values come from the YAML reader, which also asks for keys of at most 1,024 characters
    with the colon in the same line.
    """
    check_characters(text, name=name)
    if not text.strip():
        raise RecipeError([place_problem(name, Place(line=1, column=1), "the file is empty")])
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise RecipeError([place_problem(name, place_at(text, error.pos), message)]) from error
    except RecursionError:
        # The reader below reports the place where the nesting becomes too deep.
        pass
    # Outside strings YAML allows fewer tabs than JSON; inside them JSON allows none.
    return parse_yaml(text.replace("\t", " "), name=name, language="JSON")


def resolve_plain(text: str) -> Atom:
    """Return the value of an unquoted scalar; raise ValueError for a number of absurd length."""
    for pattern, read in _SCALARS:
        if pattern.fullmatch(text):
            if len(text) > _MAX_NUMBER_CHARACTERS:
                size = f"{len(text)} characters; at most {_MAX_NUMBER_CHARACTERS} are allowed"
                raise ValueError(f"a number of {size}")
            return read(text)
    return text


class _Mark(Protocol):
    # The stubs of PyYAML know two unrelated classes.
    line: int
    column: int


class _Reader:
    """Builds the values from parser events, so that nothing is expanded before it was counted."""

    def __init__(self, text: str, *, name: str, language: str) -> None:
        self._parser = yaml.SafeLoader(text)
        self._name = name
        self._language = language
        self._values: dict[KeyPath, Place] = {}
        self._keys: dict[KeyPath, Place] = {}
        self._problems: list[tuple[KeyPath, Problem]] = []
        self._num_nodes = 0

    def document(self) -> ParsedText:
        self._next()
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            raise self._refuse(_place(start), "the file is empty", remedy=Remedy.WRITE_RECIPE)
        if isinstance(start, yaml.DocumentStartEvent) and start.tags:
            self._note((), _place(start), "%TAG directives are not allowed; remove it")
        value = self._node(self._next(), (), depth=1)
        self._next()
        end = self._next()
        if not isinstance(end, yaml.StreamEndEvent):
            self._note((), _place(end), "a second document starts here; a file holds one")
        places = Places(path=self._name, values=self._values, keys=self._keys)
        return ParsedText(value=value, places=places, problems=tuple(self._problems))

    def _next(self) -> yaml.Event:
        # PyYAML raises plain ValueErrors for `\UFFFFFFFF` and for a %YAML version of a thousand digits.
        try:
            event: yaml.Event = self._parser.get_event()  # type: ignore[no-untyped-call]  # missing in the stubs
            return event
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = _mark_place(mark) if mark else self._here()
            raise self._refuse(place, f"not valid {self._language}: {_syntax_message(error)}") from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            message = f"not valid {self._language}: a character or number out of range"
            raise self._refuse(self._here(), message) from error

    def _here(self) -> Place:
        return _mark_place(self._parser.get_mark())

    def _note(self, key_path: KeyPath, place: Place, message: str) -> None:
        """Record a problem of one field; reading continues."""
        if len(self._problems) <= MAX_PROBLEMS:
            self._problems.append((key_path, place_problem(self._name, place, message, key_path=key_path)))

    def _refuse(self, place: Place, message: str, *, remedy: Remedy | None = None) -> RecipeError:
        """Return the error that ends reading: all recorded problems, then this one."""
        recorded = [problem for _, problem in self._problems]
        return RecipeError([*recorded, place_problem(self._name, place, message)], remedy=remedy)

    def _node(self, event: yaml.Event, key_path: KeyPath, *, depth: int) -> object:
        place = _place(event)
        self._values.setdefault(key_path, place)
        self._count(place, depth=depth)
        self._check_extras(event, key_path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, key_path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(key_path, depth=depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._entries(key_path, depth=depth)
        return None

    def _count(self, place: Place, *, depth: int) -> None:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise self._refuse(
                place, f"more than {MAX_NODES} values; a document may have at most {MAX_NODES}"
            )
        if depth > MAX_DEPTH:
            raise self._refuse(
                place, f"nested more than {MAX_DEPTH} levels deep; at most {MAX_DEPTH} are allowed"
            )

    def _check_extras(self, event: yaml.Event, key_path: KeyPath) -> None:
        place = _place(event)
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        if isinstance(event, yaml.AliasEvent):
            self._note(key_path, place, f"aliases are not allowed, got {show(anchor)}; write the value out")
        elif anchor is not None:
            self._note(key_path, place, f"anchors are not allowed, got {show(anchor)}; remove it")
        tag = event.tag if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) else None
        if tag is not None:
            self._note(key_path, place, f"tags are not allowed, got {show(tag)}; remove it")

    def _scalar(self, event: yaml.ScalarEvent, key_path: KeyPath) -> Atom:
        place = _place(event)
        if event.style is not None:
            # JSON writes a character above U+FFFF as two escapes, a surrogate pair.
            text = event.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
            found = forbidden_character(text)
            if found is not None:
                self._note(
                    key_path, place, f"holds the forbidden character {name_character(found)}; remove it"
                )
            return text
        try:
            value = resolve_plain(event.value)
        except ValueError as error:
            self._note(key_path, place, str(error))
            return None
        if isinstance(value, str) and self._language == "JSON":
            self._note(key_path, place, f"{show(value)} is no JSON value; use a finite number")
        return value

    def _items(self, key_path: KeyPath, *, depth: int) -> tuple[object, ...]:
        items: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, (*key_path, len(items)), depth=depth + 1))
        return tuple(items)

    def _entries(self, key_path: KeyPath, *, depth: int) -> dict[str, object]:
        entries: dict[str, object] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, key_path, depth=depth + 1)
            child_path = key_path if key is None else (*key_path, key)
            first = self._keys.setdefault(child_path, _place(event)) if key is not None else None
            value = self._node(self._next(), child_path, depth=depth + 1)
            if key is None:
                continue
            if key in entries:
                assert first is not None
                message = f"duplicate key, first given in line {first.line}; keep one"
                self._note(child_path, _place(event), message)
            entries.setdefault(key, value)
        return entries

    def _key(self, event: yaml.Event, key_path: KeyPath, *, depth: int) -> str | None:
        key = self._node(event, key_path, depth=depth)
        if isinstance(key, str):
            return key
        if not isinstance(event, yaml.AliasEvent):
            shown = "a list or mapping" if isinstance(key, tuple | dict) else show(key)
            self._note(key_path, _place(event), f"keys must be text, got {shown}; put it in quotes")
        return None


def _place(event: yaml.Event) -> Place:
    return _mark_place(event.start_mark)


def _mark_place(mark: _Mark | None) -> Place:
    if mark is None:
        return Place()
    return Place(line=mark.line + 1, column=mark.column + 1)


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or "cannot be read").encode("ascii", "backslashreplace").decode("ascii")[:200]
    if "mapping values are not allowed" in problem:
        return "a second `: ` in one line; put text that holds a colon in quotes"
    if "'\\t' that cannot start" in problem:
        return "a tab; indent with spaces"
    if "undefined alias" in problem or problem.startswith("found undefined tag"):
        return "tags and aliases are not allowed; remove it"
    context = f" {error.context}" if error.context else ""
    return f"{problem}{context}"
