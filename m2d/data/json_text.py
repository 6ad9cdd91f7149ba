"""Strict JSON of a data set: keys once, numbers of a sensible length, every fault in words."""

from __future__ import annotations

import json
from typing import Any

# Far above any sensible number, far below what makes int() slow or refuse.
_MAX_NUMBER_CHARACTERS = 40


def read_json_text(text: str) -> Any:
    """Return the one value of a text.

    Raises:
        JSONDecodeError: It is no JSON, or something follows the value; it knows the place.
        ValueError: As `read_json_value`.
    """
    value, end = read_json_value(text, len(text) - len(text.lstrip()))
    if text[end:].strip():
        raise json.JSONDecodeError("something follows the value", text, end)
    return value


def read_json_value(text: str, offset: int = 0) -> tuple[Any, int]:
    """Return the value that starts at `offset` and the offset behind it.

    Raises:
        JSONDecodeError: It is no JSON; it knows the place.
        ValueError: A key is given twice, a number is too long, or lists are nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, offset)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"duplicate key {repeated[:60]!a}; keep one")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_CHARACTERS:
        raise ValueError(
            f"a number of {len(digits)} characters; at most {_MAX_NUMBER_CHARACTERS} are allowed"
        )
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
