"""Translates pydantic validation errors into problems with a place and a clear message.

Owns the wording of every schema problem, for any pydantic model; checks nothing itself.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from m2d.errors import Problem
from m2d.recipe.places import KeyPath, Places, show
from m2d.recipe.schema import CrossFieldError
from m2d.recipe.suggestions import known_keys, unknown_key_message

_NAMED_FIELD = re.compile(r"(?P<path>[a-z_][a-z0-9_.]*): (?P<message>.*)", re.DOTALL)

_LIST = "expected a list (lines that start with `- `), got {got}{hint}"
_MAPPING = "expected a mapping (lines of `key: value`), got {got}{hint}"
_MESSAGES = {
    "missing": "is missing; add it",
    "string_unicode": "is not text: {got} holds bytes that are not UTF-8",
    "string_type": "expected text, got {got}{hint}",
    "int_type": "expected a whole number, got {got}{hint}",
    "int_from_float": "expected a whole number, got {got}{hint}",
    "int_parsing": "expected a whole number, got {got}",
    "int_parsing_size": "expected a number of fewer digits, got {got}",
    "float_parsing": "expected a number, got {got}",
    "float_type": "expected a number, got {got}{hint}",
    "finite_number": "expected a finite number, got {got}{hint}",
    "bool_type": "expected true or false, got {got}{hint}",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
    "greater_than_equal": "must be at least {ge}, got {got}",
    "greater_than": "must be more than {gt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "multiple_of": "must be a multiple of {multiple_of}, got {got}",
    "literal_error": "{got} is not known; use one of {choices}",
    "too_short": "needs at least {min_length} of them, got {actual_length}",
    "too_long": "may have at most {max_length} of them, got {actual_length}",
    "string_too_short": "must have at least {min_length} characters, got {got}",
    "string_too_long": "may have at most {max_length} characters, got {size}",
}
_PATTERNS = {
    r"^[\w-]{1,40}$": "1 to 40 letters, digits, _ and -",
    r"^[\w./-]{1,200}$": "1 to 200 letters, digits and . / _ -",
    r"^[a-z][a-z0-9_]{0,40}$": "a letter from a to z, then up to 40 of a-z, 0-9 and _",
    r"^[0-9a-f]{64}$": "64 of the digits 0-9 and a-f",
}


def explain(error: ValidationError, *, model: type[BaseModel], places: Places) -> list[Problem]:
    """Return the problems of a document that is no valid `model`, with their places in its text."""
    problems: list[Problem] = []
    for details in error.errors(include_url=False):
        if _is_echo(details):
            continue
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, CrossFieldError):
            problems += [places.problem(key_path, message) for key_path, message in cause.problems]
        else:
            problems.append(_problem(details, model=model, places=places))
    return problems


def _is_echo(details: ErrorDetails) -> bool:
    """Whether pydantic reports a list as too short only because it did not count the invalid entries."""
    got = details["input"]
    return (
        details["type"] == "too_short" and isinstance(got, tuple) and len(got) >= details["ctx"]["min_length"]
    )


def _problem(details: ErrorDetails, *, model: type[BaseModel], places: Places) -> Problem:
    # pydantic marks a problem with a mapping's key by a last step "[key]".
    key_path: KeyPath = tuple(step for step in details["loc"] if step != "[key]")
    at_key = len(key_path) < len(details["loc"])
    if details["type"] == "extra_forbidden":
        return places.problem(key_path, unknown_key_message(model, key_path), at_key=True)
    if details["type"] == "value_error":
        key_path, message = _own_message(details, key_path, model=model)
        return places.problem(key_path, message, at_key=at_key)
    return places.problem(key_path, message_of(details), at_key=at_key)


def message_of(details: ErrorDetails) -> str:
    """Return what is wrong with a value, and the value."""
    kind, got = details["type"], details["input"]
    limits = {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for name, limit in details.get("ctx", {}).items()
    }
    if kind == "string_pattern_mismatch" and limits["pattern"] in _PATTERNS:
        return f"expected {_PATTERNS[limits['pattern']]}, got {show(got)}"
    if kind not in _MESSAGES:
        return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {show(got)}"
    return _MESSAGES[kind].format(
        got=show(got),
        hint=_hint(kind, got),
        choices=str(limits.get("expected")).replace(" or ", ", "),
        size=len(got) if isinstance(got, str) else "more",
        **limits,
    )


def _hint(kind: str, got: object) -> str:
    if got is None:
        return "; give a value or remove the key"
    if kind == "string_type" and isinstance(got, bool | int | float):
        return "; put it in quotes"
    return ""


def _own_message(details: ErrorDetails, key_path: KeyPath, *, model: type[BaseModel]) -> tuple[KeyPath, str]:
    """Return the message of a validator; `field: message` from a model's validator belongs to that field."""
    message = str(details.get("ctx", {}).get("error", details["msg"]))
    named = _NAMED_FIELD.fullmatch(message)
    if named:
        steps = tuple(named["path"].split("."))
        if steps[0] in known_keys(model, key_path):
            return (*key_path, *steps), named["message"]
    return key_path, message
