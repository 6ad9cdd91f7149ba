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
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngImageFile, PngInfo

from m2d.limits import TALLEST_SMALL_PICTURE
from m2d.reading import parse_json
from m2d.video.lettering import (
    Colour,
    clusters,
    describe_characters,
    draw_line,
    missing_characters,
    text_width,
)
from m2d.video.printable import counted, printable

FRAMES_PER_SCENE = 4
# The most scenes of a recipe; many programs refuse to open much larger pictures.
MOST_ROWS = 500
# Width of a frame in pixels; the sheets of long films have smaller ones, and so files of a size to pass on.
FRAME_WIDTH, SMALL_FRAME_WIDTH = 384, 208
MOST_LARGE_ROWS, MOST_LARGE_COLUMNS = 24, 6
LONGEST_PROMPT = 600
MOST_LINES = 12
LONGEST_FACT, MOST_FACTS = 80, 12
LONGEST_TITLE = 120

_MARGIN, _GAP, _ROW_GAP, _RADIUS = 56, 12, 44, 8
_TITLE, _NUMBER, _TEXT, _SMALL = 38, 30, 20, 18
_STRIP_MARGIN = 20
# Prompts of a few words get the narrow column, whole paragraphs the wide one.
_NARROW, _WIDE, _PARAGRAPH, _TEXT_GAP = 340, 520, 200, 36
_LINE, _FOOTER_GAP, _FOOTER = 28, 44, 44
_GROUND, _RULE = (20, 22, 27), (44, 48, 57)
_BRIGHT, _PLAIN, _QUIET, _ACCENT = (238, 236, 230), (198, 200, 205), (146, 151, 162), (222, 178, 108)
_WARNING = (232, 128, 108)
_SMOOTHING = 4
# Raise it when rows are drawn differently: rows of older sheets are then drawn again.
_LOOK = 2
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
        note: Shown below the prompt, such as why the scene is stale.
    """

    prompt: str
    num_frames: int
    picked: Callable[[Sequence[int]], Sequence[np.ndarray]]
    key: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Sizes common to all rows of a sheet, in pixels."""

    column: int
    width: int
    num_frames: int
    frame_width: int
    frame_height: int

    def row_height(self, num_lines: int) -> int:
        """Height of a row and the gap below it."""
        return max(self.frame_height, _LINE * (num_lines + 1) + 16) + _ROW_GAP


def sheet_png(
    scenes: Sequence[SheetScene],
    *,
    title: str,
    facts: Sequence[str],
    older: bytes = b"",
    count: str = "",
    most_frames: int = FRAMES_PER_SCENE,
) -> bytes:
    """Draw a contact sheet, a row per scene with its prompt on the left: the bytes of a PNG file.

    A row that an older sheet shows is copied, so a film that grows decodes and draws its new scenes only.

    Args:
        scenes: At least one; of more than `MOST_ROWS` the last ones are shown.
        facts: Short texts for the footer, such as `seed 7`.
        older: An older sheet of the film, as PNG; anything else is ignored.
        count: What the rows are, such as `8 seeds`; by default the number of scenes and frames.
        most_frames: Frames in a row; of a longer scene they are spread from its first to its last.
    """
    if not scenes or any(not scene.num_frames for scene in scenes):
        raise ValueError(
            f"{len(scenes)} scenes; at least one is needed, and a scene without frames cannot be drawn"
        )
    first = max(len(scenes) - MOST_ROWS, 0)
    shown = scenes[first:]
    layout = _layout_of(shown, most_frames=most_frames)
    known = _read_rows(older, width=layout.width)
    head = _head(layout, title=title, count=count or _count(scenes, num_rows=len(shown)))
    footer = _footer(layout, facts, texts=[title, *(scene.prompt for scene in shown)])
    lines = [_lines(scene, column=layout.column) for scene in shown]
    rows_height = sum(layout.row_height(len(its_lines)) for its_lines in lines)
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


def width_of_frames(num_rows: int, *, num_columns: int) -> int:
    """Return the width that the frames of a sheet have at least, in pixels."""
    is_large = num_rows <= MOST_LARGE_ROWS and num_columns <= MOST_LARGE_COLUMNS
    return FRAME_WIDTH if is_large else SMALL_FRAME_WIDTH


def strip_png(frames: Sequence[np.ndarray], labels: Sequence[str], *, title: str) -> bytes:
    """Draw a few frames side by side under a title: the bytes of a PNG file.

    Args:
        frames: uint8 RGB arrays HWC.
        labels: One short text per frame, drawn above it.
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames with {len(labels)} labels; one label each is needed")
    wanted = width_of_frames(1, num_columns=len(frames))
    pictures = [_fitted(Image.fromarray(frame_HWC), wanted) for frame_HWC in frames]
    width = 2 * _STRIP_MARGIN + sum(picture.width + _GAP for picture in pictures) - _GAP
    top = _STRIP_MARGIN + 2 * _LINE
    height = top + max(picture.height for picture in pictures) + _STRIP_MARGIN
    strip = Image.new("RGB", (width, height), _GROUND)
    left, baseline = _STRIP_MARGIN, _STRIP_MARGIN + _SMALL
    shown = _shortened(printable(title, limit=LONGEST_TITLE), size=_TEXT, room=width - 2 * left)
    draw_line(strip, (left, baseline), shown, size=_TEXT, fill=_BRIGHT)
    for picture, label in zip(pictures, labels, strict=True):
        text = _shortened(printable(label, limit=LONGEST_FACT), size=_SMALL, room=picture.width)
        draw_line(strip, (left, baseline + _LINE), text, size=_SMALL, fill=_ACCENT)
        strip.paste(picture, (left, top), _rounded(picture.size))
        left += picture.width + _GAP
    return _png(strip, texts={})


def _layout_of(scenes: Sequence[SheetScene], *, most_frames: int) -> _Layout:
    column = _WIDE if max(len(scene.prompt) for scene in scenes) > _PARAGRAPH else _NARROW
    # All scenes of a film are of one size.
    frame_HWC = scenes[-1].picked([0])[0]
    most = min(most_frames, max(scene.num_frames for scene in scenes))
    wanted = width_of_frames(len(scenes), num_columns=most)
    width, height = _fitted_size(frame_HWC.shape[1], frame_HWC.shape[0], wanted)
    strip_width = most * (width + _GAP) - _GAP
    return _Layout(
        column=column,
        width=2 * _MARGIN + column + _TEXT_GAP + strip_width,
        num_frames=most,
        frame_width=wanted,
        frame_height=height,
    )


def _row_key(scene: SheetScene, number: int, layout: _Layout) -> str:
    """Return a digest of everything that a row shows; empty when it cannot be copied."""
    if not scene.key:
        return ""
    drawn = [
        *(_LOOK, scene.key, scene.prompt, scene.note, missing_characters([scene.prompt]), number),
        *(layout.column, layout.width, layout.frame_height),
    ]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def _read_rows(png: bytes, *, width: int) -> dict[str, Callable[[], Image.Image]]:
    """Return the rows of a sheet by their keys; none when it is not a sheet of this width."""
    try:
        # `Image.open` refuses pictures as tall as the sheet of a long film.
        sheet = PngImageFile(io.BytesIO(png))
        if sheet.width != width or sheet.width * sheet.height > _MOST_PIXELS:
            return {}
        # The texts may stand behind the pixels: asking for them decodes all.
        rows = parse_json(sheet.text[_ROWS])
        sheet.load()
        ends = itertools.accumulate(height for _, height in rows)
        return {
            key: functools.partial(sheet.crop, (0, end - height, width, end))
            for (key, height), end in zip(rows, ends, strict=True)
            if key and 0 < height <= end <= sheet.height
        }
    except (SyntaxError, OSError, KeyError, ValueError, TypeError):
        return {}


def _draw_row(scene: SheetScene, number: int, lines: Sequence[_Line], layout: _Layout) -> Image.Image:
    row = Image.new("RGB", (layout.width, layout.row_height(len(lines))), _GROUND)
    draw_line(row, (_MARGIN, _NUMBER - 7), f"{number}", size=_NUMBER, fill=_ACCENT)
    for index, line in enumerate(lines, start=1):
        baseline = _NUMBER + 4 + index * _LINE
        draw_line(row, (_MARGIN, baseline), line.text, size=_TEXT, fill=line.fill)
    left = _MARGIN + layout.column + _TEXT_GAP
    for frame in _strip(scene, layout):
        row.paste(frame, (left, 0), _rounded(frame.size))
        left += frame.width + _GAP
    return row


def _count(scenes: Sequence[SheetScene], *, num_rows: int) -> str:
    num_frames = sum(scene.num_frames for scene in scenes)
    left_out = f", the last {num_rows} shown" if num_rows < len(scenes) else ""
    return f"{counted(len(scenes), 'scene')}, {counted(num_frames, 'frame')}{left_out}"


def _head(layout: _Layout, *, title: str, count: str) -> Image.Image:
    head = Image.new("RGB", (layout.width, _MARGIN + 66), _GROUND)
    baseline, width = _MARGIN + 20, text_width(count, _SMALL)
    draw_line(head, (head.width - _MARGIN - width, baseline), count, size=_SMALL, fill=_QUIET)
    room = head.width - 2 * _MARGIN - width - _TEXT_GAP
    shown = _shortened(printable(title, limit=LONGEST_TITLE) or "Untitled", size=_TITLE, room=room)
    draw_line(head, (_MARGIN, baseline), shown, size=_TITLE, fill=_BRIGHT)
    return head


def _footer(layout: _Layout, facts: Sequence[str], *, texts: Sequence[str]) -> Image.Image:
    """Draw the facts, and which characters of the texts above them have no font."""
    room = layout.width - 2 * _MARGIN
    shown = [printable(fact, limit=LONGEST_FACT) for fact in facts[:MOST_FACTS]]
    lines = [_Line("   \u00b7   ".join(shown), _QUIET)]
    missing = missing_characters(map(printable, texts))
    if missing:
        named = _wrapped(f"no font for {describe_characters(missing)}", column=room)
        lines += [_Line(text, _WARNING) for text in named]
    top = _FOOTER_GAP - _ROW_GAP  # The last row's gap is above it.
    height = top + _FOOTER + (len(lines) - 1) * _LINE + _MARGIN // 2
    footer = Image.new("RGB", (layout.width, height), _GROUND)
    ImageDraw.Draw(footer).line([(_MARGIN, top), (footer.width - _MARGIN, top)], fill=_RULE)
    for index, line in enumerate(lines):
        text = _shortened(line.text, size=_SMALL, room=room)
        draw_line(footer, (_MARGIN, top + 36 + index * _LINE), text, size=_SMALL, fill=line.fill)
    return footer


def _strip(scene: SheetScene, layout: _Layout) -> list[Image.Image]:
    count = min(layout.num_frames, scene.num_frames)
    chosen = np.linspace(0, scene.num_frames - 1, count).round().astype(int)
    return [
        _fitted(Image.fromarray(frame_HWC), layout.frame_width)
        for frame_HWC in scene.picked([int(index) for index in chosen])
    ]


def _fitted_size(width: int, height: int, wanted: int) -> tuple[int, int]:
    wanted = min(wanted, max(1, round(width * TALLEST_SMALL_PICTURE * wanted / height)))
    if width <= wanted // 2:
        # A whole factor treats all pixels alike.
        factor = -(-wanted // width)
        return width * factor, height * factor
    return wanted, max(1, round(height * wanted / width))


def _fitted(frame: Image.Image, wanted: int) -> Image.Image:
    return frame.resize(_fitted_size(*frame.size, wanted), Image.Resampling.LANCZOS)


def _png(picture: Image.Image, *, texts: Mapping[str, str]) -> bytes:
    chunks = PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=_QUICK, pnginfo=chunks)
    return file.getvalue()


@functools.cache  # A long film has a row for every scene.
def _rounded(size: tuple[int, int]) -> Image.Image:
    large = Image.new("L", (size[0] * _SMOOTHING, size[1] * _SMOOTHING), 0)
    box = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, radius=_RADIUS * _SMOOTHING, fill=255)
    return large.resize(size, Image.Resampling.BOX)


class _Line(NamedTuple):
    text: str
    fill: Colour


def _lines(scene: SheetScene, *, column: int) -> list[_Line]:
    notes = _wrapped(scene.note, column=column) if scene.note else ()
    return [
        *(_Line(text, _PLAIN) for text in _wrapped(scene.prompt, column=column)),
        *(_Line(text, _WARNING) for text in notes),
    ]


def _wrapped(prompt: str, *, column: int) -> tuple[str, ...]:
    lines = [""]
    for word in printable(prompt, limit=LONGEST_PROMPT).split():
        for piece in _pieces(word, column=column):
            longer = f"{lines[-1]} {piece}".strip()
            if text_width(longer, _TEXT) <= column:
                lines[-1] = longer
            else:
                lines.append(piece)
    shown = [line for line in lines if line]
    if len(shown) > MOST_LINES:
        shown[MOST_LINES - 1] = _shortened(f"{shown[MOST_LINES - 1]} ...", size=_TEXT, room=column)
    return tuple(shown[:MOST_LINES])


def _pieces(word: str, *, column: int) -> list[str]:
    """Divide a word where it is wider than the column."""
    pieces = [""]
    for cluster in clusters(word):
        if text_width(pieces[-1] + cluster, _TEXT) > column:
            pieces.append("")
        pieces[-1] += cluster
    return pieces


def _shortened(text: str, *, size: int, room: float) -> str:
    if text_width(text, size) <= room:
        return text
    kept = clusters(text)
    while kept and text_width(f"{''.join(kept)}...", size) > room:
        kept.pop()
    return f"{''.join(kept).rstrip()}..."
