"""The tree a recipe's text becomes: plain values that still know their line and column.

Owns places in the text and turning a key path into a Problem; reads no file and knows no schema.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from m2d.errors import Problem, RecipeError, Remedy

MAX_DEPTH = 20
MAX_NODES = 20_000
MAX_PROBLEMS = 50

# Far above 2**63 - 1 (19 digits) and any sensible decimal, far below what makes int() slow or refuse.
MAX_NUMBER_CHARACTERS = 40

_MAX_SHOWN_CHARACTERS = 60

KeyPath = tuple[str | int, ...]
Atom = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A 1-based line and column; line 0 means that the place is unknown."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scalar:
    """A single value."""

    value: Atom
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """A list of nodes."""

    nodes: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One `key: value` of a mapping."""

    key_place: Place
    node: Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """A mapping."""

    entries: Mapping[str, Entry]
    place: Place

    def get(self, key: str | int) -> Entry | None:
        """Return the entry called `key`, or None when there is none."""
        return self.entries.get(key) if isinstance(key, str) else None


Node = Scalar | Items | Entries


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the fields of one document stand in its text.

    Attributes:
        path: The file as the user named it; it starts every message.
        root: The document; None when there is no text behind the values (built in code).
    """

    path: str
    root: Node | None = None

    def place(self, key_path: KeyPath, *, at_key: bool = False) -> Place:
        """Return where `key_path` stands, or its nearest ancestor that is in the text."""
        node, place = self.root, self.root.place if self.root else Place()
        for step in key_path:
            if isinstance(node, Items) and isinstance(step, int) and 0 <= step < len(node.nodes):
                node = node.nodes[step]
                place = node.place
            elif isinstance(node, Entries) and (entry := node.get(step)) is not None:
                node = entry.node
                place = entry.key_place if at_key else node.place
            else:
                break
        return place

    def problem(self, key_path: KeyPath, message: str, *, at_key: bool = False) -> Problem:
        """Build the Problem of the field at `key_path`; `at_key` points at the key, not at its value."""
        place = self.place(key_path, at_key=at_key)
        return Problem(
            path=self.path, line=place.line, column=place.column, field=field_name(key_path), message=message
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTree:
    """A parsed document.

    Attributes:
        path: The file as the user named it.
        root: The document.
        problems: What was wrong with single nodes, by key path; the rest of the tree is usable.
    """

    path: str
    root: Node
    problems: tuple[tuple[KeyPath, Problem], ...] = ()

    @property
    def places(self) -> Places:
        """Where everything stands."""
        return Places(path=self.path, root=self.root)


@dataclass(kw_only=True, slots=True)
class TreeBuilder:
    """Counts nodes and gathers problems while a parser builds a tree."""

    path: str
    problems: list[tuple[KeyPath, Problem]] = field(default_factory=list)
    num_nodes: int = 0

    def note(self, key_path: KeyPath, place: Place, message: str) -> None:
        """Record a problem of one node; building goes on."""
        if len(self.problems) <= MAX_PROBLEMS:
            self.problems.append((key_path, self._problem(key_path, place, message)))

    def refuse(
        self, place: Place, message: str, *, key_path: KeyPath = (), remedy: Remedy | None = None
    ) -> RecipeError:
        """Return the error that ends building: everything noted so far, then this."""
        noted = [problem for _, problem in self.problems]
        return RecipeError([*noted, self._problem(key_path, place, message)], remedy=remedy)

    def count(self, place: Place, *, depth: int) -> None:
        """Count one node.

        Raises:
            RecipeError: The document nests too deeply or has too many values.
        """
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise self.refuse(place, f"more than {MAX_NODES} values; a document may have at most {MAX_NODES}")
        if depth > MAX_DEPTH:
            raise self.refuse(
                place, f"nested more than {MAX_DEPTH} levels deep; at most {MAX_DEPTH} are allowed"
            )

    def check_text(self, text: str, key_path: KeyPath, place: Place) -> None:
        """Note a control character or lone surrogate that an escape such as `\\x1b` put into `text`."""
        found = forbidden_character(text)
        if found is not None:
            self.note(key_path, place, f"holds the forbidden character {name_character(found)}; remove it")

    def finish(self, root: Node) -> TextTree:
        """Return the built document."""
        return TextTree(path=self.path, root=root, problems=tuple(self.problems))

    def _problem(self, key_path: KeyPath, place: Place, message: str) -> Problem:
        return Problem(
            path=self.path, line=place.line, column=place.column, field=field_name(key_path), message=message
        )


def plain(node: Node) -> object:
    """Return the node as scalars, tuples and dicts."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return tuple(plain(child) for child in node.nodes)
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def field_name(key_path: KeyPath) -> str:
    """Spell a key path as `scenes[1].prompt`; odd keys are quoted and shortened."""
    return "".join(_step_names(key_path))


def _step_names(key_path: KeyPath) -> Iterator[str]:
    for index, step in enumerate(key_path):
        if isinstance(step, int):
            yield f"[{step}]"
        elif step.isidentifier() and step.isascii() and len(step) <= _MAX_SHOWN_CHARACTERS:
            yield f".{step}" if index else step
        else:
            yield f"[{show(step)}]"


def show(value: object) -> str:
    """Spell a value for a message: short, and without a character that could steer a terminal."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a mapping of {len(value)}"
    text = value if isinstance(value, str) else str(value)
    if len(text) > _MAX_SHOWN_CHARACTERS:
        text = text[: _MAX_SHOWN_CHARACTERS - 3] + "..."
    return repr(text) if isinstance(value, str) else text


def forbidden_character(text: str) -> str | None:
    """Return the first character no recipe text may hold, or None.

    Refused are controls other than tab and line breaks, line and paragraph separators, surrogates, and the
    direction overrides that make a text read differently from what it says.
    """
    if text.isascii() and text.isprintable():
        return None
    return next((character for character in text if _is_forbidden(character)), None)


def _is_forbidden(character: str) -> bool:
    if character in "\t\n\r":
        return False
    if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
        return True
    return "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"


def name_character(character: str) -> str:
    """Spell a character as `U+001B`."""
    return f"U+{ord(character):04X}"


def place_at(text: str, offset: int) -> Place:
    """Return line and column of `offset` characters into `text`."""
    line_start = text.rfind("\n", 0, offset) + 1
    return Place(line=text.count("\n", 0, offset) + 1, column=offset - line_start + 1)
