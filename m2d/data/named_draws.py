"""Random numbers without state: each follows from its name alone, never from earlier draws."""

from __future__ import annotations

import hashlib

_BITS = 53


def draw_unit(*name: object) -> float:
    """Return the random number in [0, 1) of a name such as `(seed, "clip", epoch, story, scene)`."""
    digest = hashlib.sha256("\0".join(map(str, name)).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS)


def draw_below(limit: int, *name: object) -> int:
    """Return the random integer in 0..limit-1 of a name."""
    if limit < 1:
        raise ValueError(f"no integer to draw below {limit}")
    return min(int(draw_unit(*name) * limit), limit - 1)
