"""Reads the text of a recipe file within limits; knows neither YAML nor JSON.

Every RecipeError names the file and, for a problem in the text, its line and column.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from m2d.errors import RecipeError, Remedy
from m2d.reading import UnreadableFile, open_regular
from m2d.recipe.places import FORBIDDEN, Place, name_character, place_at, place_problem

MAX_BYTES = 1_000_000
# The YAML scanner spends most of its time on line breaks: a megabyte of them takes it several seconds.
MAX_LINES = 20_000

# Characters that the text itself may not hold. A carriage return is allowed only before a line feed: anywhere
# else YAML would count a line that no editor shows.
_FORBIDDEN = re.compile(f"[{FORBIDDEN}\ufffe\uffff]|\r(?!\n)")


def read_text(path: Path) -> str:
    """Return the text of a file, without a leading byte order mark; raises RecipeError as `decode_text`."""
    return decode_text(_read_bytes(path), name=str(path))


def decode_text(data: bytes, *, name: str) -> str:
    """Decode `data`; `name` starts every message.

    Raises:
        RecipeError: The data has too many bytes or lines, is not UTF-8, or holds control characters.
    """
    if _is_binary(data):
        raise _refusal(name, "is no text file; give a YAML or JSON file")
    if len(data) > MAX_BYTES:
        raise _refusal(name, f"larger than {MAX_BYTES} bytes; a recipe may have at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        message = f"not UTF-8 text (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        raise _refusal(name, message, place=place_at(before, len(before))) from error
    if text.count("\n") > MAX_LINES:
        raise _refusal(name, f"more than {MAX_LINES} lines; a recipe may have at most {MAX_LINES}")
    check_characters(text, name=name)
    return text


def _is_binary(data: bytes) -> bool:
    """Whether it is no text of any encoding, such as a video."""
    if b"\0" not in data or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def check_characters(text: str, *, name: str) -> None:
    """Reject control characters in the text itself; the message names the first and counts the others."""
    found = [match.start() for match in _FORBIDDEN.finditer(text)]
    if not found:
        return
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"forbidden character {name_character(text[found[0]])}{more}; remove it"
    raise _refusal(name, message, place=place_at(text, found[0]))


def _read_bytes(path: Path) -> bytes:
    name = str(path)
    try:
        # One byte more than allowed is read: the message about it is that of standard input, too.
        with open_regular(path, limit_bytes=None) as file:
            return file.read(MAX_BYTES + 1)
    except UnreadableFile as error:
        raise _refusal(name, f"{error.strerror}; give the path of a recipe") from error
    except FileNotFoundError as error:
        raise _refusal(name, "no such file", remedy=Remedy.WRITE_RECIPE) from error
    except OSError as error:
        raise _refusal(name, f"cannot be read: {error.strerror}") from error


def _refusal(
    name: str, message: str, *, place: Place | None = None, remedy: Remedy | None = None
) -> RecipeError:
    return RecipeError([place_problem(name, place or Place(), message)], remedy=remedy)
