"""Make text from a recipe or a film safe to show: on a terminal, in a chapter title, on a contact sheet.

Also owns the plural of counted things.
"""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Characters that reorder the text after them: a prompt could appear as another text.
_REORDERING = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f"
)
_BREAKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")


def printable(text: str, *, limit: int | None = None) -> str:
    """Return `text` on one line; each output format escapes its own markup.

    Line breaks and tabs become spaces, control characters and reordering marks are removed, a lone surrogate
    becomes a replacement character. Everything else is unchanged.

    Args:
        limit: Longest result in characters; a longer text ends in an ellipsis.
    """
    shown = "".join(map(_shown, text)).strip()
    if limit is not None and len(shown) > limit:
        return shown[: max(limit - 3, 0)].rstrip() + "..."
    return shown


def counted(count: int, noun: str) -> str:
    """Return `1 video`, `2 videos` or `2 stories`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun.removesuffix('y')}ies" if noun.endswith("ry") else f"{count} {noun}s"


def _shown(character: str) -> str:
    if character in _BREAKS:
        return " "
    category = unicodedata.category(character)
    if category == "Cs":
        return REPLACEMENT
    return "" if category == "Cc" or character in _REORDERING else character
