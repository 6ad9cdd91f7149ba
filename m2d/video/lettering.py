"""Text in pictures: lines of any script, each character in a font that has it.

Right-to-left scripts and ligatures are laid out by raqm where Pillow has it. A character without a font is
drawn as a box; `missing_characters` names it. Owns no fonts: see `faces`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from PIL import Image, ImageDraw

from m2d.video.faces import Face, face_of, own_face

Colour = tuple[int, int, int]

_BOX = "\N{WHITE SQUARE}"
_JOINER = "\N{ZERO WIDTH JOINER}"
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_NAMED_PER_SCRIPT = 4


def clusters(text: str) -> list[str]:
    """Divide text into characters with the marks, joiners and selectors that belong to them."""
    found: list[str] = []
    for character in text:
        is_mark = unicodedata.category(character) in {"Mn", "Mc", "Me", "Cf"} or character in _SKIN_TONES
        if found and (is_mark or found[-1].endswith(_JOINER)):
            found[-1] += character
        else:
            found.append(character)
    return found


def text_width(text: str, size: int) -> float:
    """Return the width of a line, in pixels."""
    return sum(_width(face, piece, size) for face, piece in _runs(text))


def draw_line(picture: Image.Image, xy: tuple[float, float], text: str, *, size: int, fill: Colour) -> None:
    """Draw one line of text; `xy` is the left end of its baseline, `size` the font's, in pixels."""
    left, baseline = xy
    for face, piece in _runs(text):
        if face.at(size).size == size:
            draw = ImageDraw.Draw(picture)
            draw.text(
                (left, baseline),
                piece,
                font=face.at(size),
                fill=fill,
                anchor="ls",
                embedded_color=face.has_colours,
            )
        else:
            _draw_scaled(picture, (round(left), round(baseline)), piece, face=face, size=size)
        left += _width(face, piece, size)


def ascent(size: int) -> int:
    """Height of the package's font above the baseline, in pixels."""
    return own_face().at(size).getmetrics()[0]


def missing_characters(texts: Iterable[str]) -> str:
    """Return the characters of some texts that no font has, each once, in their order."""
    return "".join(
        character
        for character in dict.fromkeys("".join(texts))
        if not (character.isascii() or _is_invisible(character)) and face_of(character) is None
    )


def describe_characters(characters: str) -> str:
    """Name characters that cannot be shown, by script: `CJK U+6D77 U+8FB9, Hangul U+C548`."""
    scripts: dict[str, list[str]] = {}
    for character in characters:
        is_sign = unicodedata.category(character)[0] not in "LM"
        name = "signs" if is_sign else unicodedata.name(character, "OTHERS").split()[0].capitalize()
        scripts.setdefault(name.replace("Cjk", "CJK"), []).append(f"U+{ord(character):04X}")
    parts = []
    for name, codes in scripts.items():
        more = f" and {len(codes) - _NAMED_PER_SCRIPT} more" if len(codes) > _NAMED_PER_SCRIPT else ""
        parts.append(f"{name} {' '.join(codes[:_NAMED_PER_SCRIPT])}{more}")
    return ", ".join(parts)


def _runs(text: str) -> list[tuple[Face, str]]:
    """Divide a line into pieces of one font each."""
    own, runs = own_face(), list[tuple[Face, str]]()
    for cluster in clusters(text):
        if cluster.isascii() and not cluster.isspace():
            face, piece = own, cluster
        else:
            face, piece = _face_and_text(cluster, before=runs[-1][0] if runs else own)
        if runs and runs[-1][0] == face:
            runs[-1] = face, runs[-1][1] + piece
        elif piece:
            runs.append((face, piece))
    return runs


def _face_and_text(cluster: str, *, before: Face) -> tuple[Face, str]:
    first = cluster[0]
    if first.isspace() and ord(first) in before.characters:
        # A space is as wide as an emoji in their fonts.
        return own_face() if before.has_colours else before, cluster
    face = face_of(first)
    if face is not None:
        known = {character for character in cluster if ord(character) in face.characters}
        return face, "".join(character for character in cluster if character in known or character == _JOINER)
    return own_face(), "" if _is_invisible(first) else _BOX


def _is_invisible(character: str) -> bool:
    return (
        unicodedata.category(character) in {"Cc", "Cf", "Zs", "Zl", "Zp"} or "\ufe00" <= character <= "\ufe0f"
    )


def _width(face: Face, text: str, size: int) -> float:
    font = face.at(size)
    return font.getlength(text) * size / font.size


def _draw_scaled(picture: Image.Image, xy: tuple[int, int], text: str, *, face: Face, size: int) -> None:
    """Draw with a font that is made of pictures of another size."""
    font = face.at(size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text, anchor="ls"))
    if right <= left or bottom <= top:
        return
    tile = Image.new("RGBA", (right - left, bottom - top))
    ImageDraw.Draw(tile).text((-left, -top), text, font=font, anchor="ls", embedded_color=True)
    share = size / font.size
    shown = tile.resize(
        (max(1, round(tile.width * share)), max(1, round(tile.height * share))), Image.Resampling.LANCZOS
    )
    picture.paste(shown, (xy[0] + round(left * share), xy[1] + round(top * share)), shown)
