"""Strict YAML: text to a tree that keeps every position, by the core schema of YAML 1.2.

Refused are anchors, aliases, tags, duplicate keys, keys that are not text, several documents, and documents
over the limits of `text_tree`. It builds no objects, includes nothing and expands nothing.
"""

from __future__ import annotations

import re
from typing import Protocol

import yaml

from m2d.errors import Remedy
from m2d.recipe.text_file import check_characters
from m2d.recipe.text_tree import (
    MAX_NUMBER_CHARACTERS,
    Atom,
    Entries,
    Entry,
    Items,
    KeyPath,
    Node,
    Place,
    Scalar,
    TextTree,
    TreeBuilder,
    show,
)

# YAML 1.2.2, section 10.3.2 (core schema): `no`, `1_000`, `12:30` and dates are text, 014 is fourteen.
_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)")
_NOT_A_NUMBER = re.compile(r"\.nan|\.NaN|\.NAN")


class NumberTooLongError(ValueError):
    """A number with more digits than any field can use."""


def parse_yaml(text: str, *, name: str) -> TextTree:
    """Parse one document.

    Args:
        text: The document.
        name: The file as the user named it; it starts every message.

    Returns:
        The tree, with the problems of single nodes; the caller adds its own and raises them together.

    Raises:
        RecipeError: The text is no YAML at all, is empty, or breaks a limit.
    """
    check_characters(text, name=name)
    return _Composer(text, name=name).document()


def resolve_plain(text: str) -> Atom:
    """Return the value of an unquoted scalar.

    Raises:
        NumberTooLongError: The text is a number of absurd length.
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INFINITY.fullmatch(text) or _NOT_A_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            return int(_bounded(text), base)
    if _FLOAT.fullmatch(text):
        return float(_bounded(text))
    return text


def _bounded(text: str) -> str:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise NumberTooLongError(
            f"a number of {len(text)} characters; at most {MAX_NUMBER_CHARACTERS} are allowed"
        )
    return text


class _Mark(Protocol):
    line: int
    column: int


class _Composer:
    """Builds the tree from parser events, so that nothing is expanded before it was counted."""

    def __init__(self, text: str, *, name: str) -> None:
        self._parser = yaml.SafeLoader(text)
        self._builder = TreeBuilder(path=name)

    def document(self) -> TextTree:
        self._next()
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            raise self._builder.refuse(_place(start), "the file is empty", remedy=Remedy.WRITE_RECIPE)
        if isinstance(start, yaml.DocumentStartEvent) and start.tags:
            self._builder.note((), _place(start), "%TAG directives are not allowed; remove it")
        root = self._node(self._next(), (), depth=1)
        self._next()
        end = self._next()
        if not isinstance(end, yaml.StreamEndEvent):
            self._builder.note((), _place(end), "a second document starts here; a file holds one")
        return self._builder.finish(root)

    def _next(self) -> yaml.Event:
        # PyYAML raises plain ValueErrors for `\UFFFFFFFF` and for a %YAML version of a thousand digits.
        try:
            event: yaml.Event = self._parser.get_event()  # type: ignore[no-untyped-call]  # missing in the stubs
            return event
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = _mark_place(mark) if mark else self._here()
            raise self._builder.refuse(place, _syntax_message(error)) from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            message = "not valid YAML: a character or number out of range"
            raise self._builder.refuse(self._here(), message) from error

    def _here(self) -> Place:
        return _mark_place(self._parser.get_mark())

    def _node(self, event: yaml.Event, key_path: KeyPath, *, depth: int) -> Node:
        place = _place(event)
        self._builder.count(place, depth=depth)
        self._refuse_extras(event, key_path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, key_path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(place, key_path, depth=depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._entries(place, key_path, depth=depth)
        return Scalar(value=None, place=place)

    def _refuse_extras(self, event: yaml.Event, key_path: KeyPath) -> None:
        place = _place(event)
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        if isinstance(event, yaml.AliasEvent):
            self._builder.note(
                key_path, place, f"aliases are not allowed, got {show(anchor)}; write the value out"
            )
        elif anchor is not None:
            self._builder.note(key_path, place, f"anchors are not allowed, got {show(anchor)}; remove it")
        tag = event.tag if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) else None
        if tag is not None:
            self._builder.note(key_path, place, f"tags are not allowed, got {show(tag)}; remove it")

    def _scalar(self, event: yaml.ScalarEvent, key_path: KeyPath) -> Scalar:
        place = _place(event)
        if event.style is not None:
            self._builder.check_text(event.value, key_path, place)
            return Scalar(value=event.value, place=place)
        try:
            return Scalar(value=resolve_plain(event.value), place=place)
        except NumberTooLongError as error:
            self._builder.note(key_path, place, str(error))
            return Scalar(value=None, place=place)

    def _items(self, place: Place, key_path: KeyPath, *, depth: int) -> Items:
        nodes: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            nodes.append(self._node(event, (*key_path, len(nodes)), depth=depth + 1))
        return Items(nodes=tuple(nodes), place=place)

    def _entries(self, place: Place, key_path: KeyPath, *, depth: int) -> Entries:
        entries: dict[str, Entry] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, key_path, depth=depth + 1)
            key_place = _place(event)
            child_path = key_path if key is None else (*key_path, key)
            node = self._node(self._next(), child_path, depth=depth + 1)
            if key is None:
                continue
            if key in entries:
                first = entries[key].key_place.line
                self._builder.note(
                    child_path, key_place, f"duplicate key, first given in line {first}; keep one"
                )
                continue
            entries[key] = Entry(key_place=key_place, node=node)
        return Entries(entries=entries, place=place)

    def _key(self, event: yaml.Event, key_path: KeyPath, *, depth: int) -> str | None:
        node = self._node(event, key_path, depth=depth)
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return node.value
        if isinstance(event, yaml.AliasEvent):
            return None
        value = node.value if isinstance(node, Scalar) else "a list or mapping"
        shown = value if isinstance(value, str) else show(value)
        self._builder.note(key_path, node.place, f"keys must be text, got {shown}; put it in quotes")
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
        return "not valid YAML: a second `: ` in one line; put text that holds a colon in quotes"
    if "'\\t' that cannot start" in problem:
        return "not valid YAML: a tab; indent with spaces"
    if "undefined alias" in problem or problem.startswith("found undefined tag"):
        return "not valid YAML: tags and aliases are not allowed; remove it"
    context = f" {error.context}" if error.context else ""
    return f"not valid YAML: {problem}{context}"
