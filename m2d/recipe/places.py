"""A document as plain values that keep the line and column of every field.

Owns places in the text and the spelling of fields and values in messages; reads no file and knows no schema.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from m2d.errors import InputError, Problem, RecipeError

_MAX_SHOWN_CHARACTERS = 60

COMMAND_LINE_NAME = "command line"
"""The path in messages about values that are in no file."""

KeyPath = tuple[str | int, ...]
Atom = str | int | float | bool | None

# Control characters other than tab and line breaks, line and paragraph separators, surrogates, and the
# direction overrides that make a text read differently from what it says.
FORBIDDEN = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_FORBIDDEN_CHARACTER = re.compile(f"[{FORBIDDEN}]")

# Letters, marks and one symbol by category that are drawn as nothing.
_FILLER = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A 1-based line and column; line 0 means that the place is unknown."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the values and keys of one document stand in its text; empty for values built in code.

    Attributes:
        path: The file as the user named it; it starts every message.
        replaced: Fields whose values are not those of the text but were given for this run, in `settings`.
    """

    path: str
    values: Mapping[KeyPath, Place] = field(default_factory=dict)
    keys: Mapping[KeyPath, Place] = field(default_factory=dict)
    replaced: tuple[KeyPath, ...] = ()

    def place(self, key_path: KeyPath, *, at_key: bool = False) -> Place:
        """Return the place of `key_path`, or of its nearest ancestor in the text."""
        for length in range(len(key_path), -1, -1):
            known = key_path[:length]
            if known in self.values:
                return self.keys.get(known, self.values[known]) if at_key else self.values[known]
        return Place()

    def problem(self, key_path: KeyPath, message: str, *, at_key: bool = False) -> Problem:
        """Build the Problem of the field at `key_path`; `at_key` points at the key, not at its value."""
        if self.is_replaced(key_path):
            return setting_problem(key_path, message)
        place = self.place(key_path, at_key=at_key)
        return place_problem(self.path, place, message, key_path=key_path)

    def is_replaced(self, key_path: KeyPath) -> bool:
        """Whether the value at `key_path` or around it was given for this run."""
        return any(key_path[: len(replaced)] == replaced for replaced in self.replaced)


class FieldsRefused(InputError):
    """Fields of a valid recipe that do not suit the model, told by code that has only the values."""

    def __init__(self, problems: Sequence[tuple[KeyPath, str]]) -> None:
        super().__init__("\n".join(f"{field_name(key_path)}: {message}" for key_path, message in problems))
        self.problems = tuple(problems)

    def placed(self, places: Places) -> RecipeError:
        """Return the error with file and line of every field."""
        return RecipeError([places.problem(key_path, message) for key_path, message in self.problems])


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedText:
    """A document as scalars, tuples and dicts; fields without a problem are usable."""

    value: object
    places: Places
    problems: tuple[tuple[KeyPath, Problem], ...] = ()


def place_problem(path: str, place: Place, message: str, *, key_path: KeyPath = ()) -> Problem:
    """Build the Problem at a place of the text."""
    return Problem(
        path=path, line=place.line, column=place.column, field=field_name(key_path), message=message
    )


def setting_problem(key_path: KeyPath, message: str) -> Problem:
    """Build the Problem of a field whose value was given for this run."""
    field_given = f"set {field_name(key_path)}"
    return Problem(path=COMMAND_LINE_NAME, line=0, column=0, field=field_given, message=message)


def field_name(key_path: KeyPath) -> str:
    """Spell a key path as `scenes[1].prompt`; unusual keys are quoted and shortened."""
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
    """Return the first character of `text` that no recipe may hold, or None."""
    found = _FORBIDDEN_CHARACTER.search(text)
    return found.group() if found else None


def is_invisible(character: str) -> bool:
    """Whether a character shows nothing: a space, a format character, a filler or a variation selector."""
    kind = unicodedata.category(character)
    return kind in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"} or _FILLER.fullmatch(character) is not None


def shows_nothing(text: str) -> bool:
    """Whether a text is empty, or nothing of it can be seen."""
    return all(map(is_invisible, text))


def name_character(character: str) -> str:
    """Spell a character as `U+001B`."""
    return f"U+{ord(character):04X}"


def place_at(text: str, offset: int) -> Place:
    """Return line and column of `offset` characters into `text`."""
    line_start = text.rfind("\n", 0, offset) + 1
    return Place(line=text.count("\n", 0, offset) + 1, column=offset - line_start + 1)
