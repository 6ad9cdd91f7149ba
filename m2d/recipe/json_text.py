"""Strict JSON: text to the same tree as YAML, with every position kept.

The standard library's reader gives no positions, lets duplicate keys win silently and accepts NaN.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right

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
    place_at,
    show,
)

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<float>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_DECODER = json.JSONDecoder()
_WORDS: dict[str, Atom] = {"true": True, "false": False, "null": None}


def parse_json(text: str, *, name: str) -> TextTree:
    """Parse one document.

    Args:
        text: The document.
        name: The file as the user named it; it starts every message.

    Returns:
        The tree, with the problems of single nodes; the caller adds its own and raises them together.

    Raises:
        RecipeError: The text is no JSON at all, is empty, or breaks a limit.
    """
    check_characters(text, name=name)
    return _JsonReader(text, name=name).document()


class _JsonReader:
    def __init__(self, text: str, *, name: str) -> None:
        self._text = text
        self._offset = 0
        self._builder = TreeBuilder(path=name)
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> TextTree:
        if not self._text.strip(" \t\r\n"):
            raise self._builder.refuse(Place(line=1, column=1), "the file is empty")
        root = self._node((), depth=1)
        self._skip_space()
        if self._offset < len(self._text):
            raise self._unexpected("the end of the file")
        return self._builder.finish(root)

    def _node(self, key_path: KeyPath, *, depth: int) -> Node:
        self._skip_space()
        place = self._place()
        self._builder.count(place, depth=depth)
        if self._take("["):
            return self._items(place, key_path, depth=depth)
        if self._take("{"):
            return self._entries(place, key_path, depth=depth)
        if self._peek() == '"':
            text = self._string()
            self._builder.check_text(text, key_path, place)
            return Scalar(value=text, place=place)
        return Scalar(value=self._atom(key_path, place), place=place)

    def _items(self, place: Place, key_path: KeyPath, *, depth: int) -> Items:
        nodes: list[Node] = []
        if not self._take("]"):
            nodes.append(self._node((*key_path, 0), depth=depth + 1))
            while self._separator("]"):
                nodes.append(self._node((*key_path, len(nodes)), depth=depth + 1))
        return Items(nodes=tuple(nodes), place=place)

    def _entries(self, place: Place, key_path: KeyPath, *, depth: int) -> Entries:
        entries: dict[str, Entry] = {}
        if not self._take("}"):
            self._entry(entries, key_path, depth=depth)
            while self._separator("}"):
                self._entry(entries, key_path, depth=depth)
        return Entries(entries=entries, place=place)

    def _entry(self, entries: dict[str, Entry], key_path: KeyPath, *, depth: int) -> None:
        self._skip_space()
        key_place = self._place()
        if self._peek() != '"':
            raise self._unexpected("a key in double quotes")
        key = self._string()
        if not self._take(":"):
            raise self._unexpected("`:`")
        node = self._node((*key_path, key), depth=depth + 1)
        if key in entries:
            first = entries[key].key_place.line
            self._builder.note(
                (*key_path, key), key_place, f"duplicate key, first given in line {first}; keep one"
            )
            return
        self._builder.check_text(key, key_path, key_place)
        entries[key] = Entry(key_place=key_place, node=node)

    def _separator(self, end: str) -> bool:
        if self._take(end):
            return False
        if not self._take(","):
            raise self._unexpected(f"`,` or `{end}`")
        return True

    def _string(self) -> str:
        try:
            text, self._offset = _DECODER.raw_decode(self._text, self._offset)
        except json.JSONDecodeError as error:
            place = place_at(self._text, min(error.pos, len(self._text)))
            raise self._builder.refuse(place, f"not valid JSON: {error.msg.lower()}") from error
        return str(text)

    def _atom(self, key_path: KeyPath, place: Place) -> Atom:
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._offset):
                self._offset += len(word)
                return value
        match = _NUMBER.match(self._text, self._offset)
        if match is None:
            raise self._unexpected("a value")
        self._offset = match.end()
        digits = match.group()
        if len(digits) > MAX_NUMBER_CHARACTERS:
            message = f"a number of {len(digits)} characters; at most {MAX_NUMBER_CHARACTERS} are allowed"
            self._builder.note(key_path, place, message)
            return None
        return float(digits) if match.group("float") else int(digits)

    def _take(self, character: str) -> bool:
        self._skip_space()
        found = self._peek() == character
        self._offset += found
        return found

    def _peek(self) -> str:
        return self._text[self._offset : self._offset + 1]

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._offset)
        self._offset = match.end() if match else self._offset

    def _place(self) -> Place:
        line = bisect_right(self._line_starts, self._offset)
        return Place(line=line, column=self._offset - self._line_starts[line - 1] + 1)

    def _unexpected(self, wanted: str) -> Exception:
        self._skip_space()
        got = show(self._peek()) if self._peek() else "the end of the file"
        return self._builder.refuse(self._place(), f"not valid JSON: expected {wanted}, got {got}")
