"""Draw a contact sheet of a film, with frames and prompt of every scene in a row; or a strip of frames.

Equal arguments give equal bytes. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngImageFile, PngInfo

from m2d.video.printable import printable

FRAMES_PER_SCENE = 5
# The most scenes of a recipe; many programs refuse to open much larger pictures.
MOST_ROWS = 500
FRAME_WIDTH = 208
LONGEST_PROMPT = 600
MOST_LINES = 12
LONGEST_FACT, MOST_FACTS = 80, 12
LONGEST_TITLE = 120

_MARGIN, _GAP, _ROW_GAP, _RADIUS = 56, 10, 40, 8
_STRIP_MARGIN = 20
# Prompts of a few words get the narrow column, whole paragraphs the wide one.
_NARROW, _WIDE, _PARAGRAPH, _TEXT_GAP = 300, 460, 200, 36
_LINE, _FOOTER_GAP, _FOOTER = 25, 44, 40
_GROUND, _RULE = (20, 22, 27), (44, 48, 57)
_BRIGHT, _PLAIN, _QUIET, _ACCENT = (238, 236, 230), (198, 200, 205), (124, 129, 140), (222, 178, 108)
_SMOOTHING = 4
# Raise it when rows are drawn differently: rows of older sheets are then drawn again.
_LOOK = 1
_QUICK = 1
# A text chunk of the PNG file lists the rows: key and height of each, from the top.
_ROWS = "m2d-rows"
_MOST_PIXELS = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetScene:
    """One scene of a sheet.

    Attributes:
        picked: Returns frames by their numbers, ascending: uint8 RGB HWC.
        key: Identifies its frames; a scene without a key is always drawn.
    """

    prompt: str
    num_frames: int
    picked: Callable[[Sequence[int]], Sequence[np.ndarray]]
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Sizes common to all rows of a sheet, in pixels."""

    column: int
    width: int
    frame_height: int

    def row_height(self, lines: Sequence[str]) -> int:
        """Height of a row and the gap below it."""
        return max(self.frame_height, _LINE * (len(lines) + 1) + 12) + _ROW_GAP


def sheet_png(
    scenes: Sequence[SheetScene], *, title: str, facts: Sequence[str], older: bytes = b"", count: str = ""
) -> bytes:
    """Draw a contact sheet, a row per scene with its prompt on the left: the bytes of a PNG file.

    A row that an older sheet shows is copied, so a film that grows decodes and draws its new scenes only.

    Args:
        scenes: At least one; of more than `MOST_ROWS` the last ones are shown.
        facts: Short texts for the footer, such as `seed 7`.
        older: An older sheet of the film, as PNG; anything else is ignored.
        count: What the rows are, such as `8 seeds`; by default the number of scenes and frames.
    """
    if not scenes or any(not scene.num_frames for scene in scenes):
        raise ValueError(
            f"{len(scenes)} scenes; at least one is needed, and a scene without frames cannot be drawn"
        )
    first = max(len(scenes) - MOST_ROWS, 0)
    shown = scenes[first:]
    layout = _layout_of(shown)
    known = _read_rows(older, width=layout.width)
    head = _head(layout, title=title, count=count or _count(scenes, num_rows=len(shown)))
    footer = _footer(layout, facts)
    lines = [_wrapped(scene.prompt, column=layout.column) for scene in shown]
    rows_height = sum(map(layout.row_height, lines))
    sheet = Image.new("RGB", (layout.width, head.height + rows_height + footer.height), _GROUND)
    sheet.paste(head, (0, 0))
    top, rows = head.height, [("", head.height)]
    for number, (scene, its_lines) in enumerate(zip(shown, lines, strict=True), start=first + 1):
        key = _row_key(scene, number, layout)
        row = known[key]() if key in known else _draw_row(scene, number, its_lines, layout)
        sheet.paste(row, (0, top))
        top += row.height
        rows.append((key, row.height))
    sheet.paste(footer, (0, top))
    return _png(sheet, texts={_ROWS: json.dumps(rows)})


def strip_png(frames: Sequence[np.ndarray], labels: Sequence[str], *, title: str) -> bytes:
    """Draw a few frames side by side under a title: the bytes of a PNG file.

    Args:
        frames: uint8 RGB arrays HWC.
        labels: One short text per frame, drawn above it.
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames with {len(labels)} labels; one label each is needed")
    pictures = [_fitted(Image.fromarray(frame_HWC)) for frame_HWC in frames]
    width = 2 * _STRIP_MARGIN + sum(picture.width + _GAP for picture in pictures) - _GAP
    top = _STRIP_MARGIN + 2 * _LINE
    height = top + max(picture.height for picture in pictures) + _STRIP_MARGIN
    strip = Image.new("RGB", (width, height), _GROUND)
    draw, left = ImageDraw.Draw(strip), _STRIP_MARGIN
    shown = _shortened(printable(title, limit=LONGEST_TITLE), font=_font(17), room=width - 2 * left)
    draw.text((left, _STRIP_MARGIN - 4), shown, font=_font(17), fill=_BRIGHT)
    for picture, label in zip(pictures, labels, strict=True):
        text = _shortened(printable(label, limit=LONGEST_FACT), font=_font(15), room=picture.width)
        draw.text((left, _STRIP_MARGIN + _LINE - 2), text, font=_font(15), fill=_ACCENT)
        strip.paste(picture, (left, top), _rounded(picture.size))
        left += picture.width + _GAP
    return _png(strip, texts={})


def _layout_of(scenes: Sequence[SheetScene]) -> _Layout:
    column = _WIDE if max(len(scene.prompt) for scene in scenes) > _PARAGRAPH else _NARROW
    # All scenes of a film are of one size.
    frame_HWC = scenes[-1].picked([0])[0]
    width, height = _fitted_size(frame_HWC.shape[1], frame_HWC.shape[0])
    most = min(FRAMES_PER_SCENE, max(scene.num_frames for scene in scenes))
    strip_width = most * (width + _GAP) - _GAP
    return _Layout(
        column=column,
        width=2 * _MARGIN + column + _TEXT_GAP + strip_width,
        frame_height=height,
    )


def _row_key(scene: SheetScene, number: int, layout: _Layout) -> str:
    """Return a digest of everything that a row shows; empty when it cannot be copied."""
    if not scene.key:
        return ""
    drawn = [_LOOK, scene.key, scene.prompt, number, layout.column, layout.width, layout.frame_height]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def _read_rows(png: bytes, *, width: int) -> dict[str, Callable[[], Image.Image]]:
    """Return the rows of a sheet by their keys; none when it is not a sheet of this width."""
    try:
        # `Image.open` refuses pictures as tall as the sheet of a long film.
        sheet = PngImageFile(io.BytesIO(png))
        rows = json.loads(sheet.text[_ROWS])
        if sheet.width != width or sheet.width * sheet.height > _MOST_PIXELS:
            return {}
        sheet.load()
        ends = itertools.accumulate(height for _, height in rows)
        return {
            key: functools.partial(sheet.crop, (0, end - height, width, end))
            for (key, height), end in zip(rows, ends, strict=True)
            if key and 0 < height <= end <= sheet.height
        }
    except (SyntaxError, OSError, KeyError, ValueError, TypeError):
        return {}


def _draw_row(scene: SheetScene, number: int, lines: Sequence[str], layout: _Layout) -> Image.Image:
    row = Image.new("RGB", (layout.width, layout.row_height(lines)), _GROUND)
    draw = ImageDraw.Draw(row)
    # The digits' glyphs begin below their origin.
    draw.text((_MARGIN, -3), f"{number}", font=_font(28), fill=_ACCENT)
    for index, line in enumerate(lines):
        draw.text((_MARGIN, 44 + index * _LINE), line, font=_font(17), fill=_PLAIN)
    left = _MARGIN + layout.column + _TEXT_GAP
    for frame in _strip(scene):
        row.paste(frame, (left, 0), _rounded(frame.size))
        left += frame.width + _GAP
    return row


def _count(scenes: Sequence[SheetScene], *, num_rows: int) -> str:
    num_frames = sum(scene.num_frames for scene in scenes)
    left_out = f", the last {num_rows} shown" if num_rows < len(scenes) else ""
    return f"{len(scenes)} scene{'s' * (len(scenes) != 1)}, {num_frames} frames{left_out}"


def _head(layout: _Layout, *, title: str, count: str) -> Image.Image:
    head = Image.new("RGB", (layout.width, _MARGIN + 62), _GROUND)
    draw = ImageDraw.Draw(head)
    draw.text((head.width - _MARGIN, _MARGIN + 20), count, font=_font(16), fill=_QUIET, anchor="rs")
    room = head.width - 2 * _MARGIN - _font(16).getlength(count) - _TEXT_GAP
    shown = _shortened(printable(title, limit=LONGEST_TITLE) or "Untitled", font=_font(34), room=room)
    draw.text((_MARGIN, _MARGIN + 20), shown, font=_font(34), fill=_BRIGHT, anchor="ls")
    return head


def _footer(layout: _Layout, facts: Sequence[str]) -> Image.Image:
    # The last row's gap is above it.
    top = _FOOTER_GAP - _ROW_GAP
    footer = Image.new("RGB", (layout.width, top + _FOOTER + _MARGIN // 2), _GROUND)
    draw = ImageDraw.Draw(footer)
    draw.line([(_MARGIN, top), (footer.width - _MARGIN, top)], fill=_RULE)
    room = footer.width - 2 * _MARGIN
    shown = [printable(fact, limit=LONGEST_FACT) for fact in facts[:MOST_FACTS]]
    text = _shortened("   \u00b7   ".join(shown), font=_font(15), room=room)
    draw.text((_MARGIN, top + 28), text, font=_font(15), fill=_QUIET, anchor="lm")
    return footer


def _strip(scene: SheetScene) -> list[Image.Image]:
    count = min(FRAMES_PER_SCENE, scene.num_frames)
    chosen = np.linspace(0, scene.num_frames - 1, count).round().astype(int)
    return [
        _fitted(Image.fromarray(frame_HWC)) for frame_HWC in scene.picked([int(index) for index in chosen])
    ]


def _fitted_size(width: int, height: int) -> tuple[int, int]:
    factor = FRAME_WIDTH // width
    if factor >= 1:
        # Whole factors only: pixels stay square and sharp.
        return width * factor, height * factor
    return FRAME_WIDTH, max(1, round(height * FRAME_WIDTH / width))


def _fitted(frame: Image.Image) -> Image.Image:
    size = _fitted_size(frame.width, frame.height)
    is_enlarged = size[0] >= frame.width
    return frame.resize(size, Image.Resampling.NEAREST if is_enlarged else Image.Resampling.LANCZOS)


def _png(picture: Image.Image, *, texts: Mapping[str, str]) -> bytes:
    chunks = PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=_QUICK, pnginfo=chunks)
    return file.getvalue()


# Cached: a long film has a row for every scene.
@functools.cache
def _rounded(size: tuple[int, int]) -> Image.Image:
    large = Image.new("L", (size[0] * _SMOOTHING, size[1] * _SMOOTHING), 0)
    box = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, radius=_RADIUS * _SMOOTHING, fill=255)
    return large.resize(size, Image.Resampling.BOX)


def _wrapped(prompt: str, *, column: int) -> tuple[str, ...]:
    lines = [""]
    for word in printable(prompt, limit=LONGEST_PROMPT).split():
        for piece in _pieces(word, column=column):
            longer = f"{lines[-1]} {piece}".strip()
            if _font(17).getlength(longer) <= column:
                lines[-1] = longer
            else:
                lines.append(piece)
    shown = [line for line in lines if line]
    if len(shown) > MOST_LINES:
        shown[MOST_LINES - 1] = _shortened(f"{shown[MOST_LINES - 1]} ...", font=_font(17), room=column)
    return tuple(shown[:MOST_LINES])


def _pieces(word: str, *, column: int) -> list[str]:
    """Divide a word where it is wider than the column."""
    pieces = [""]
    for character in word:
        if _font(17).getlength(pieces[-1] + character) > column:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _shortened(text: str, *, font: ImageFont.FreeTypeFont, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}...") > room:
        text = text[:-1]
    return f"{text.rstrip()}..."


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    # Pillow without FreeType would fall back to a bitmap font of one size.
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType; install the wheel from the package index")
    return font
