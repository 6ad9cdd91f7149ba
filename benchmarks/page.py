"""Blocks of a page that a benchmark writes, between comments with the name of the block."""

from __future__ import annotations


def with_block(text: str, name: str, block: str) -> str:
    """Return the page with the block of this name replaced.

    Raises:
        ValueError: The page does not have both comments once, in order.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected one {begin!r} and, below it, one {end!r}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"
