"""Fonts: which one has a character, first the package's own, then those of the system.

The package's font is DejaVu Sans Condensed: Latin, Greek, Cyrillic, Hebrew, Arabic, arrows and signs.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from m2d.folders import with_home
from m2d.reading import check_regular

OWN_FONT = Path(__file__).with_name("fonts") / "DejaVuSansCondensed.ttf"
_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
)
_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_SPAN = re.compile("[0-9a-f]{1,6}(-[0-9a-f]{1,6})?")
_MOST_FILES = 2000
# Fonts are a comfort: a slow disk or thousands of fonts must not hold up a film.
_LONGEST_QUERY_S, _LONGEST_SEARCH_S = 5.0, 3.0
_UNUSUAL = ("bold", "italic", "oblique", "light", "thin", "black", "medium", "mono", "serif", "condensed")
# Fonts that are made of pictures have only these sizes.
_PICTURE_SIZES = (109, 160, 136, 128, 96, 64)
# Fonts of all of Unicode's ideographs have about 100 MB.
_LARGEST_FONT_BYTES = 512 << 20
# Raised by fontTools for corrupt files.
_UNREADABLE = (TTLibError, OSError, struct.error, LookupError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """One font of a file.

    Attributes:
        characters: Code points that it has.
        has_colours: Whether its glyphs are coloured, as those of emoji.
    """

    path: Path
    index: int
    characters: frozenset[int]
    has_colours: bool = False

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """Return the font in this size, in pixels; fonts made of pictures in the size that they have."""
        return _sized(self.path, self.index, size)


@functools.cache
def own_face() -> Face:
    """Return the package's font."""
    face = _read_face(OWN_FONT, 0)
    assert face is not None
    return face


@functools.cache
def face_of(character: str) -> Face | None:
    """Return the font that draws a character; None if neither the package nor the system has one."""
    code = ord(character)
    if code in own_face().characters:
        return own_face()
    for font in _listed_fonts():
        if any(code in span for span in font.spans):
            face = _read_face(font.path, font.index)
            if face is not None and code in face.characters:
                return face
    return next((face for face in _faces_in_folders() if code in face.characters), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ListedFont:
    """A font that fontconfig lists, with the code points that it has."""

    path: Path
    index: int
    spans: tuple[range, ...]


@functools.cache
def _listed_fonts() -> tuple[_ListedFont, ...]:
    """Ask fontconfig for all fonts, plain ones first; none where it is not installed or does not answer."""
    program = shutil.which("fc-list")
    if program is None:
        return ()
    query = [program, "--format", "%{file}\t%{index}\t%{charset}\n"]
    try:
        answer = subprocess.run(query, capture_output=True, timeout=_LONGEST_QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = answer.stdout.decode(errors="surrogateescape").splitlines()
    fonts = [_listed_font(*line.split("\t")) for line in lines if line.count("\t") == 2]
    return tuple(sorted(fonts, key=lambda font: _preference(font.path, font.index)))


def _listed_font(path: str, index: str, charset: str) -> _ListedFont:
    spans = [span.partition("-") for span in charset.split() if _SPAN.fullmatch(span)]
    return _ListedFont(
        path=Path(path),
        # The upper half of an index names an instance of a variable font.
        index=int(index) & 0xFFFF if index.isdigit() else 0,
        spans=tuple(range(int(first, 16), int(last or first, 16) + 1) for first, _, last in spans),
    )


@functools.cache
def _faces_in_folders() -> tuple[Face, ...]:
    """Read the fonts of the usual folders; none where fontconfig lists them."""
    if _listed_fonts():
        return ()
    deadline_s = time.monotonic() + _LONGEST_SEARCH_S
    files = itertools.chain.from_iterable(map(_font_files, _FOLDERS))
    faces = []
    for path in sorted(itertools.islice(files, _MOST_FILES), key=lambda path: _preference(path, 0)):
        if time.monotonic() > deadline_s:
            break
        faces.append(_read_face(path, 0))
    return tuple(face for face in faces if face is not None)


def _font_files(folder: str) -> Iterator[Path]:
    try:
        root = with_home(folder)
        yield from (path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
    except (OSError, RuntimeError):
        # No such folder, or no home.
        return


def _preference(path: Path, index: int) -> tuple[int, str, int]:
    """Order plain faces before bold, slanted and narrow ones."""
    name = path.name.lower().replace("sansserif", "")
    return sum(word in name for word in _UNUSUAL), str(path), index


@functools.cache
def _read_face(path: Path, index: int) -> Face | None:
    """Read which characters a font has; None if the file is not a font that can be drawn with."""
    try:
        check_regular(path, limit_bytes=_LARGEST_FONT_BYTES)
        with TTFont(path, fontNumber=index, lazy=True) as font:
            characters = frozenset(font.getBestCmap() or ())
            has_pictures = "CBDT" in font or "sbix" in font
            has_layers = "COLR" in font
            if has_layers and not has_pictures and font["COLR"].version > 0:
                # FreeType draws gradients of version 1 as nothing.
                return None
        _sized(path, index, _PICTURE_SIZES[0])
    except _UNREADABLE:
        return None
    return Face(path=path, index=index, characters=characters, has_colours=has_pictures or has_layers)


@functools.cache
def _sized(path: Path, index: int, size: int) -> ImageFont.FreeTypeFont:
    for each in (size, *_PICTURE_SIZES):
        try:
            return ImageFont.truetype(str(path), each, index=index)
        except OSError:
            continue
    raise OSError(f"{path}: has none of the sizes {size}, {_PICTURE_SIZES}")
