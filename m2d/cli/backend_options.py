"""Parses `--backend-option`; the backend itself checks names and values."""

from __future__ import annotations

from collections.abc import Sequence

from m2d.errors import InputError


def parse_options(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse the values of all `--backend-option NAME=VALUE`.

    Raises:
        InputError: A text without `=`, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--backend-option {text!r}: use NAME=VALUE, such as scope=whole")
        if name in found:
            raise InputError(f"--backend-option {name}: given twice, as {found[name]!r} and {value!r}")
        found[name] = value
    return found
