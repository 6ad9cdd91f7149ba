"""Draw a contact sheet: every scene of a film at a glance, with its prompt and how it was made; or one strip.

Owns the picture's look; equal arguments give equal bytes. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m2d.files import write_bytes
from m2d.video.printable import printable

FRAMES_PER_SCENE = 5
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
_QUICK = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    number: int
    lines: tuple[str, ...]
    frames: tuple[Image.Image, ...]

    @property
    def height(self) -> int:
        text_height = _LINE * (len(self.lines) + 1) + 12
        return max(self.frames[0].height, text_height)

    @property
    def strip_width(self) -> int:
        return sum(frame.width + _GAP for frame in self.frames) - _GAP


def write_sheet(
    path: Path,
    scenes: Sequence[np.ndarray],
    prompts: Sequence[str],
    *,
    title: str,
    facts: Sequence[str],
    force: bool = True,
) -> None:
    """Draw a contact sheet and publish it as PNG.

    Args:
        path: Where the PNG goes.
        scenes: uint8 RGB arrays PHWC.
        prompts: One per scene.
        title: The film's title.
        facts: Short texts for the footer, such as `seed 7`.
        force: Whether an existing file is replaced.

    Raises:
        OutputError: `path` exists or cannot be written.
        ValueError: Scenes and prompts do not fit together.
    """
    write_bytes(path, sheet_png(scenes, prompts, title=title, facts=facts), force=force)


def sheet_png(
    scenes: Sequence[np.ndarray], prompts: Sequence[str], *, title: str, facts: Sequence[str]
) -> bytes:
    """The contact sheet as the bytes of a PNG file; arguments as for `write_sheet`.

    Raises:
        ValueError: Scenes and prompts do not fit together.
    """
    return _png(draw_sheet(scenes, prompts, title=title, facts=facts))


def strip_png(frames: Sequence[np.ndarray], labels: Sequence[str], *, title: str) -> bytes:
    """A few frames side by side under a title, as the bytes of a PNG file.

    Args:
        frames: uint8 RGB arrays HWC.
        labels: One short text per frame, drawn above it.
        title: Drawn above all.

    Raises:
        ValueError: Frames and labels do not fit together.
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
    return _png(strip)


def draw_sheet(
    scenes: Sequence[np.ndarray], prompts: Sequence[str], *, title: str, facts: Sequence[str]
) -> Image.Image:
    """The contact sheet as a picture, a row per scene, prompts on the left; arguments as for `write_sheet`.

    Raises:
        ValueError: Scenes and prompts do not fit together.
    """
    if not scenes or len(scenes) != len(prompts):
        raise ValueError(f"{len(scenes)} scenes with {len(prompts)} prompts; one prompt each is needed")
    column = _WIDE if max(map(len, prompts)) > _PARAGRAPH else _NARROW
    rows = [
        _Row(number=number, lines=_wrapped(prompt, column=column), frames=_strip(frames_PHWC))
        for number, (frames_PHWC, prompt) in enumerate(zip(scenes, prompts, strict=True), start=1)
    ]
    top = _MARGIN + 62
    bottom = top + sum(row.height for row in rows) + _ROW_GAP * (len(rows) - 1)
    width = 2 * _MARGIN + column + _TEXT_GAP + max(row.strip_width for row in rows)
    sheet = Image.new("RGB", (width, bottom + _FOOTER_GAP + _FOOTER + _MARGIN // 2), _GROUND)
    _draw_head(sheet, title=title, num_scenes=len(rows), num_frames=sum(len(scene) for scene in scenes))
    for row in rows:
        _draw_row(sheet, row, top=top, column=column)
        top += row.height + _ROW_GAP
    _draw_footer(sheet, facts, top=bottom + _FOOTER_GAP)
    return sheet


def _draw_head(sheet: Image.Image, *, title: str, num_scenes: int, num_frames: int) -> None:
    draw = ImageDraw.Draw(sheet)
    count = f"{num_scenes} scene{'s' * (num_scenes != 1)}, {num_frames} frames"
    draw.text((sheet.width - _MARGIN, _MARGIN + 20), count, font=_font(16), fill=_QUIET, anchor="rs")
    room = sheet.width - 2 * _MARGIN - _font(16).getlength(count) - _TEXT_GAP
    shown = _shortened(printable(title, limit=LONGEST_TITLE) or "Untitled", font=_font(34), room=room)
    draw.text((_MARGIN, _MARGIN + 20), shown, font=_font(34), fill=_BRIGHT, anchor="ls")


def _draw_row(sheet: Image.Image, row: _Row, *, top: int, column: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, top - 3), f"{row.number}", font=_font(28), fill=_ACCENT)
    for index, line in enumerate(row.lines):
        draw.text((_MARGIN, top + 44 + index * _LINE), line, font=_font(17), fill=_PLAIN)
    left = _MARGIN + column + _TEXT_GAP
    for frame in row.frames:
        sheet.paste(frame, (left, top), _rounded(frame.size))
        left += frame.width + _GAP


def _draw_footer(sheet: Image.Image, facts: Sequence[str], *, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.line([(_MARGIN, top), (sheet.width - _MARGIN, top)], fill=_RULE)
    room = sheet.width - 2 * _MARGIN
    shown = [printable(fact, limit=LONGEST_FACT) for fact in facts[:MOST_FACTS]]
    text = _shortened("   \u00b7   ".join(shown), font=_font(15), room=room)
    draw.text((_MARGIN, top + 28), text, font=_font(15), fill=_QUIET, anchor="lm")


def _strip(frames_PHWC: np.ndarray) -> tuple[Image.Image, ...]:
    if not len(frames_PHWC):
        raise ValueError("a scene without frames cannot be drawn")
    count = min(FRAMES_PER_SCENE, len(frames_PHWC))
    chosen = np.linspace(0, len(frames_PHWC) - 1, count).round().astype(int)
    return tuple(_fitted(Image.fromarray(frames_PHWC[index])) for index in chosen)


def _fitted(frame: Image.Image) -> Image.Image:
    factor = FRAME_WIDTH // frame.width
    if factor >= 1:
        # Whole factors only: pixels stay square and sharp.
        return frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)
    height = max(1, round(frame.height * FRAME_WIDTH / frame.width))
    return frame.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    # A film's sheet is drawn anew with every scene that is added: better quick than a third smaller.
    picture.save(file, "PNG", compress_level=_QUICK)
    return file.getvalue()


# Drawn once: a long film has a row for every scene.
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
    """The word, cut where it is wider than the column."""
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
