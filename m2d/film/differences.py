"""What differs between two JSON documents, in words that fit into a message.

Owns the words; whether a difference matters is for the caller to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

MOST_TOLD = 3
LONGEST_TOLD = 60
_ABSENT = object()


def differences(old: Any, new: Any, *, path: str = "") -> list[str]:
    """What differs between two JSON values, each as its dotted path and both values."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted(old.keys() | new.keys())
            for difference in differences(
                old.get(key, _ABSENT), new.get(key, _ABSENT), path=f"{path}.{key}" if path else key
            )
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            difference
            for index, pair in enumerate(zip(old, new, strict=True))
            for difference in differences(*pair, path=f"{path}[{index}]")
        ]
    return [f"{path} was {_told(old)} and is {_told(new)}"]


def _told(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, list) and value:
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}..."


def listed(differing: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = [f"and {len(differing) - MOST_TOLD} more"] if len(differing) > MOST_TOLD else []
    return "; ".join([*differing[:MOST_TOLD], *more])
