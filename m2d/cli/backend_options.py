"""Options of the command line that concern a backend, read from their text.

Owns the texts' form; what an option means is the backend's.
"""

from __future__ import annotations

from collections.abc import Sequence

from m2d.errors import InputError


def parse_options(texts: Sequence[str] | None) -> dict[str, str]:
    """Read `--backend-option NAME=VALUE`, given any number of times.

    Raises:
        InputError: One without `=`, or a name given twice.
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
