"""Differences between two JSON documents, worded for a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

MAX_LISTED = 3
MAX_VALUE_LENGTH = 60
_ABSENT = object()


def differences(old: Any, new: Any, *, path: str = "") -> list[str]:
    """List the differences of two JSON values, each as its dotted path and both values."""
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
    return [f"{path} was {_short(old)} and is {_short(new)}"]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, list) and value:
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


def listed(differing: Sequence[str]) -> str:
    """Join the first few differences, and say how many more there are."""
    more = [f"and {len(differing) - MAX_LISTED} more"] if len(differing) > MAX_LISTED else []
    return "; ".join([*differing[:MAX_LISTED], *more])
