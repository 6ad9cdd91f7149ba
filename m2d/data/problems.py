"""What is wrong with a dataset's description, collected so that all of it is told at once.

Owns the collection and the checks that all formats share.
"""

from __future__ import annotations

import re
from pathlib import Path

from m2d.errors import DatasetError

MOST_TOLD = 20
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|//")


class Problems:
    """Grows while a dataset is read; `refuse` ends the reading if there is anything in it."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def add(self, place: str, message: str) -> None:
        """Record one problem; `place` is `file:line`."""
        self._told.append(f"{place}: {message}")

    def refuse(self) -> None:
        """End here if anything was recorded.

        Raises:
            DatasetError: All problems, the first twenty in words.
        """
        if not self._told:
            return
        more = len(self._told) - MOST_TOLD
        rest = [f"and {more} more problems"] if more > 0 else []
        raise DatasetError("\n".join([*self._told[:MOST_TOLD], *rest]))

    def video(self, place: str, field: str, value: object, *, root: Path) -> Path | None:
        """Return the file that a dataset names; None, and a problem recorded, when there is none."""
        if not isinstance(value, str) or not value.strip():
            self.add(place, f"{field}: {value!r} is no path; name a video file")
            return None
        # One letter and a colon is a drive.
        if _ADDRESS.match(value) or "\0" in value:
            self.add(place, f"{field}: {value[:200]!r} is an address; only files are read, download it first")
            return None
        path = root / value
        if not path.is_file():
            self.add(
                place, f"{field}: {value}: no such file under {root}; set data.root to the folder it is in"
            )
            return None
        return path
