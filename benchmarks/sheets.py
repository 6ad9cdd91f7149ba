"""Pictures for the documentation: a contact sheet of each shipped story, and the scenes of one side by side.

Run: `python -m benchmarks.sheets [--result STORY] [--frame 8] [NAME ...]`. Generates the stories in
`recipes/stories` with `m2d generate`, each in its own process, and writes `docs/sheets/NAME.png` and
`docs/result.png`. NAME limits this to the named stories. Takes about as long as generating them.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.decoded_film import read_film
from benchmarks.startup import run_m2d
from m2d.files import write_bytes
from m2d.recipe.loader import load_recipe
from m2d.video.run_folder import SHEET, run_folder_of

ROOT = Path(__file__).parents[1]
STORIES = ROOT / "recipes" / "stories"
DOCS = ROOT / "docs"
LARGEST_BYTES = 400_000
"""Size limit of a picture of up to eight scenes; each further scene may add its share."""
PER_ROW = 4

# Fewer than 128 give actors in large pictures other colours.
_PALETTES = (None, 256, 128, 64)
_SIDE, _SMALL_SIDE = 432, 288
_MARGIN, _GAP, _RADIUS, _LINE, _TEXT = 28, 16, 12, 24, 17
_SMOOTHING = 4
_GROUND, _PLAIN = (20, 22, 27), (198, 200, 205)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """The results of one story's run.

    Attributes:
        sheet: Its contact sheet.
        scenes: Frames PHWC of each scene, in the model's size.
        prompts: Prompts of the recipe, without cast and setting.
    """

    sheet: Image.Image
    scenes: tuple[np.ndarray, ...]
    prompts: tuple[str, ...]


def make(story: Path, *, options: Sequence[str] = ()) -> Made:
    """Generate a story with `m2d generate` and collect the parts of its pictures.

    Args:
        story: The recipe.
        options: More arguments of the command, such as `--model FOLDER`.

    Raises:
        RuntimeError: The command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / f"{story.stem}.mp4"
        run_m2d("generate", str(story), "--out", str(film), "--quiet", *options)
        with Image.open(run_folder_of(film) / SHEET) as sheet:
            return Made(
                sheet=sheet.convert("RGB"),
                scenes=read_film(film).scenes,
                prompts=tuple(scene.prompt for scene in load_recipe(story).scenes),
            )


def side_by_side(made: Made, *, frame: int) -> Image.Image:
    """Draw one frame of every scene, enlarged, with the scene's prompt below; long stories in rows of four.

    Args:
        made: The story.
        frame: Which frame of each scene, from 0; the last one of shorter scenes.
    """
    side = _SIDE if len(made.scenes) < PER_ROW else _SMALL_SIDE
    pictures = [_enlarged(scene[min(frame, len(scene) - 1)], side=side) for scene in made.scenes]
    captioned = [_captioned(picture, prompt) for picture, prompt in zip(pictures, made.prompts, strict=True)]
    rows = [captioned[start : start + PER_ROW] for start in range(0, len(captioned), PER_ROW)]
    width = sum(picture.width + _GAP for picture in rows[0]) - _GAP + 2 * _MARGIN
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (width, _MARGIN + sum(heights) + _MARGIN // 2 * len(rows)), _GROUND)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = _MARGIN
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + _GAP
        top += height + _MARGIN // 2
    return sheet


def largest_bytes(num_scenes: int) -> int:
    """Return the largest size of a story's picture."""
    return LARGEST_BYTES * max(num_scenes, 8) // 8


def small_png(picture: Image.Image, *, limit_bytes: int = LARGEST_BYTES) -> bytes:
    """Encode a picture with as many colours as the size limit allows; at half its size if these are too few.

    Raises:
        ValueError: Half of it is too large even with 64 colours.
    """
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    for sized, colours in [
        *itertools.product([picture], _PALETTES[:3]),
        *itertools.product([half], _PALETTES),
    ]:
        reduced = sized if colours is None else _with_colours(sized, colours)
        file = io.BytesIO()
        reduced.save(file, "PNG", optimize=True)
        if file.tell() <= limit_bytes:
            return file.getvalue()
    raise ValueError(f"a picture of {picture.width}x{picture.height} does not fit into {limit_bytes} bytes")


def _with_colours(picture: Image.Image, colours: int) -> Image.Image:
    """Reduce the colours; those of small things, such as actors, are kept beside those of large areas."""
    # No dithering: noise on enlarged pixels looks bad and compresses badly.
    return picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)


def _captioned(picture: Image.Image, prompt: str) -> Image.Image:
    lines = _wrapped(prompt, room=picture.width)
    text_top = picture.height + _GAP
    card = Image.new("RGB", (picture.width, text_top + _LINE * len(lines)), _GROUND)
    card.paste(picture, (0, 0), _rounded(picture.size))
    draw = ImageDraw.Draw(card)
    for number, line in enumerate(lines):
        draw.text((2, text_top + number * _LINE), line, font=_font(), fill=_PLAIN)
    return card


def _enlarged(frame_HWC: np.ndarray, *, side: int) -> Image.Image:
    frame = Image.fromarray(frame_HWC)
    # Whole factors only: pixels stay square and sharp.
    factor = max(side // max(frame.size), 1)
    return frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)


def _rounded(size: tuple[int, int]) -> Image.Image:
    large = Image.new("L", (size[0] * _SMOOTHING, size[1] * _SMOOTHING), 0)
    corners = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(corners, radius=_RADIUS * _SMOOTHING, fill=255)
    return large.resize(size, Image.Resampling.BOX)


def _wrapped(text: str, *, room: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font().getlength(longer) > room and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


def main() -> int:
    """Generate the stories and write their pictures."""
    names = sorted(path.stem for path in STORIES.glob("*.yaml"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="stories to redo; default: all")
    parser.add_argument(
        "--result", choices=names, default="birthday-at-the-beach", help="story of result.png"
    )
    parser.add_argument("--frame", type=int, default=8, help="which frame of each scene result.png shows")
    parser.add_argument("--model", help="instead of the recipes' model")
    parser.add_argument("--out", type=Path, default=DOCS, help="where sheets/ and result.png go")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(names))
    if unknown:
        parser.error(f"no story {', '.join(unknown)}; there are {', '.join(names)}")
    sheets = given.out / "sheets"
    sheets.mkdir(parents=True, exist_ok=True)
    for name in given.names or names:
        made = make(STORIES / f"{name}.yaml", options=["--model", given.model] if given.model else [])
        written = [(sheets / f"{name}.png", made.sheet)]
        if name == given.result:
            written.append((given.out / "result.png", side_by_side(made, frame=given.frame)))
        for path, picture in written:
            png = small_png(picture, limit_bytes=largest_bytes(len(made.scenes)))
            write_bytes(path, png)
            sys.stdout.write(f"{path}: {len(png) / 1000:.0f} KB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
