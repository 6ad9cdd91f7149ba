"""One row of the tables of figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        key: Name of the figure, unique in its section.
        what: What was measured.
        value: The figure with its unit.
        limit: The required value.
        holds: Whether the figure meets the limit; None if it was not measured.
    """

    key: str
    what: str
    value: str
    limit: str
    holds: bool | None
