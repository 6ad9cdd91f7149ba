"""Find the files that a dataset names, although it was written on another system.

Owns the spellings of a path that mean the same file; opens no file.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPaths:
    """Paths below one folder; the names in each folder are read once.

    Attributes:
        root: Folder that relative paths start from.
    """

    root: Path
    _names: dict[Path, list[str]] = field(default_factory=dict)
    _found: dict[str, Path | None] = field(default_factory=dict)

    def find(self, value: str) -> Path | None:
        """Return the file that `value` names, or None; a name is looked for once.

        Names that differ only in their Unicode form (NFC, NFD) are the same, and a backslash separates
        folders if no name holds one.
        """
        if value not in self._found:
            self._found[value] = self._find(value)
        return self._found[value]

    def _find(self, value: str) -> Path | None:
        for spelling in _spellings(value):
            path = self.root / spelling
            if path.is_file():
                return path
            found = self._find_normalised(spelling)
            if found is not None and found.is_file():
                return found
        return None

    def why_missing(self, value: str) -> str:
        """Say why `find` finds nothing, and name the file that was probably meant."""
        if _DRIVE.match(value) and os.name != "nt":
            return "is a path on a Windows drive; give the path on this machine"
        *_, spelling = _spellings(value)
        path = Path(spelling)
        folder = self.root / path.parent
        if not folder.is_dir():
            return f"no folder {folder}; set data.root to the folder that the paths start from"
        if (folder / path.name).is_dir():
            return "is a folder; name a video file"
        by_case = {name.casefold(): name for name in self._names_in(folder)}
        meant = by_case.get(path.name.casefold())
        if meant is not None:
            return f"no such file under {self.root}, but there is {meant}; its letters differ in case"
        near = difflib.get_close_matches(path.name.casefold(), by_case, n=1, cutoff=0.8)
        hint = f"; did you mean {by_case[near[0]]}?" if near else "; set data.root to the folder it is in"
        return f"no such file under {self.root}{hint}"

    def _find_normalised(self, spelling: str) -> Path | None:
        path = Path(spelling)
        found = Path(path.anchor) if path.is_absolute() else self.root
        for part in path.parts[1:] if path.is_absolute() else path.parts:
            if part == ".." or (found / part).exists():
                found /= part
                continue
            wanted = unicodedata.normalize("NFC", part)
            same = [n for n in self._names_in(found) if unicodedata.normalize("NFC", n) == wanted]
            if not same:
                return None
            found /= same[0]
        return found

    def _names_in(self, folder: Path) -> list[str]:
        if folder not in self._names:
            try:
                self._names[folder] = sorted(os.listdir(folder))
            except OSError:
                self._names[folder] = []
        return self._names[folder]


def _spellings(value: str) -> Iterator[str]:
    yield value
    if value != value.strip():
        yield value.strip()
    if "\\" in value and not _DRIVE.match(value):
        yield value.strip().replace("\\", "/")
